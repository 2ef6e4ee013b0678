"""What a sandbox sends, read from bytes as they come.

A frame is a line, which some kinds follow with blobs: bytes up to the secret and an "e". The secret is known
to the two ends alone and never written down in the sandbox, so that no file or listing holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Frame", "FrameReader", "ProtocolError"]

# kind of frame: blobs that follow its line
_BLOBS = {b"x": 2, b"r": 1, b"d": 1}
_KINDS = frozenset(
    {b"hello", b"missing", b"x", b"y", b"r", b"d", b"v", b"s", b"z", b"i", b"j", b"f", b"b"}
)
_LINE_MOST = 4096


class ProtocolError(Exception):
    """What came is nothing that the program in the sandbox sends."""


@dataclass(frozen=True)
class Frame:
    """One frame: its line's words and its blobs."""

    kind: str
    words: tuple[str, ...]
    blobs: tuple[bytes, ...] = ()

    def number(self, position: int) -> int:
        """The word at a position, as a number from 0 on."""
        try:
            word = self.words[position]
        except IndexError:
            raise ProtocolError(f"{self.kind} {' '.join(self.words)}: too few words") from None
        if not (word.isascii() and word.isdigit() and len(word) < 16):
            raise ProtocolError(f"{self.kind}: {word[:40]!r} is no number")
        return int(word)


class FrameReader:
    """Gives frames for bytes.

    Args:
        secret: what ends a blob, before an "e".
        blob_most: bytes of one blob; more is a ProtocolError, so that this is what a sandbox can
            make its reader hold, times three.
    """

    def __init__(self, secret: bytes, *, blob_most: int) -> None:
        self._end = secret + b"e"
        self._blob_most = blob_most
        self._data = bytearray()
        self._searched = 0
        self._head: tuple[str, tuple[str, ...]] | None = None
        self._blobs: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now; to be read to the end before the next bytes are fed.

        Raises:
            ProtocolError: and then for good.
        """
        self._data += data
        while True:
            if self._head is None and not self._read_line():
                return
            while self._missing:
                if not self._read_blob():
                    return
            assert self._head is not None
            kind, words = self._head
            frame = Frame(kind, words, tuple(self._blobs))
            self._head = None
            self._blobs.clear()
            yield frame

    def _read_line(self) -> bool:
        end = self._data.find(b"\n", 0, _LINE_MOST)
        if end < 0:
            if len(self._data) >= _LINE_MOST:
                raise ProtocolError(
                    f"a line of over {_LINE_MOST} bytes: {bytes(self._data[:40])!r}…"
                )
            return False
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        first, *rest = line.split(b" ")
        if first not in _KINDS:
            raise ProtocolError(f"a line that is no frame's: {line[:80]!r}")
        self._head = first.decode(), tuple(word.decode("utf-8", "replace") for word in rest)
        self._missing = _BLOBS.get(first, 0)
        return True

    def _read_blob(self) -> bool:
        end = self._data.find(self._end, self._searched)
        if end < 0:
            if len(self._data) > self._blob_most + len(self._end):
                raise ProtocolError(f"over {self._blob_most} bytes where fewer were asked for")
            self._searched = max(0, len(self._data) - len(self._end) + 1)
            return False
        if end > self._blob_most:
            raise ProtocolError(f"over {self._blob_most} bytes where fewer were asked for")
        self._blobs.append(bytes(self._data[:end]))
        del self._data[: end + len(self._end)]
        self._searched = 0
        self._missing -= 1
        return True
