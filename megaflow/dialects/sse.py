"""Server-sent events, as much of them as models' APIs use: to bytes, and from bytes cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from megaflow.errors import Unavailable

__all__ = ["DONE", "Lines", "encode"]

DONE = b"data: [DONE]\n\n"
_LONGEST = 16 * 1024 * 1024


def encode(data: Any, event: str | None = None) -> bytes:
    """One event, its data as JSON."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {text}\n\n".encode()


class Lines:
    """Makes the events' data from the bytes of a stream; joins what several `data:` lines hold."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The data of each event that these bytes end; Unavailable for what is no text or no end of it."""
        self._pending += chunk
        start = 0
        while (end := self._pending.find(b"\n", start)) >= 0:
            line = bytes(self._pending[start:end]).rstrip(b"\r")
            start = end + 1
            if line.startswith(b"data:"):
                try:
                    self._data.append(line[5:].removeprefix(b" ").decode())
                except UnicodeDecodeError as error:
                    raise Unavailable("the upstream's stream is not UTF-8") from error
            elif not line and self._data:
                data, self._data = "\n".join(self._data), []
                yield data
        del self._pending[:start]
        if len(self._pending) > _LONGEST or sum(map(len, self._data)) > _LONGEST:
            raise Unavailable("the upstream's stream has an event of over 16 MiB")
