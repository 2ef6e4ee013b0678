"""Where a key of a TOML file is written, and where a byte of any file is."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["line_of_byte", "line_of_key"]

_TABLE = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-]+?)\s*=")


def line_of_key(text: str, path: Sequence[str | int]) -> int:
    """The line of a key, from 1; of the innermost table around it that is found, where it has none of its own."""
    wanted = [str(part) for part in path if not isinstance(part, int)]
    table: list[str] = []
    best, line = 0, 1
    for number, content in enumerate(text.splitlines(), 1):
        if match := _TABLE.fullmatch(content):
            table = _parts(match[1])
            here = table
        elif match := _KEY.match(content):
            here = [*table, *_parts(match[1])]
        else:
            continue
        if len(here) > best and here == wanted[: len(here)]:
            best, line = len(here), number
    return line


def line_of_byte(data: bytes, at: int) -> int:
    """The line of a byte, from 1."""
    return data.count(b"\n", 0, at) + 1


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]
