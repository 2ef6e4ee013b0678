"""Where a key of a job file is written: its line, from 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["line_in_toml", "line_in_yaml"]

_TABLE = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-]+?)\s*=")
# What an array is made of: comments and strings, whole, since brackets in them are none; brackets; anything else.
_TOKEN = re.compile(
    r"""#[^\n]*|\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:[^"\\]|\\.)*"|'[^']*'|[\[{]|[\]}]|,|\s+|[^\s,\[\]{}"'#]+""",
    re.DOTALL,
)

Path = Sequence[str | int]


def line_in_toml(text: str, path: Path) -> int:
    """The line of a key; of the innermost table around it that is found, where it has none of its own."""
    table: list[str | int] = []
    seen: Counter[tuple[str | int, ...]] = Counter()  # of each array of tables, how many have begun
    best, line = 0, 1
    for number, content in enumerate(text.splitlines(), 1):
        if match := _TABLE.fullmatch(content):
            table = _placed(_parts(match[2]), seen, begins=match[1] == "[[")
            here = table
        elif match := _KEY.match(content):
            here = [*table, *_parts(match[1])]
        else:
            continue
        if len(here) > best and here == list(path[: len(here)]):
            best, line = len(here), number
    rest = path[best:]
    if rest and isinstance(rest[0], int):
        after = "".join(text.splitlines(keepends=True)[line - 1 :]).partition("=")[2]
        return line + _lines_to(after.lstrip(" \t"), rest[0])
    return line


def _lines_to(array: str, place: int) -> int:
    """How many lines after its beginning an element of an array begins; 0 where that is no array."""
    depth = commas = 0
    if not array.startswith("["):
        return 0
    for match in _TOKEN.finditer(array):
        token = match[0]
        if depth == 1 and commas == place and token[0] not in "#,]" and not token.isspace():
            return array.count("\n", 0, match.start())
        depth += (token in ("[", "{")) - (token in ("]", "}"))
        commas += depth == 1 and token == ","
        if not depth:
            break
    return 0


def _placed(
    parts: Sequence[str], seen: Counter[tuple[str | int, ...]], *, begins: bool
) -> list[str | int]:
    """A table's path with the index in each array of tables that it is in."""
    here: list[str | int] = []
    for part in parts:
        here.append(part)
        if begins and len(here) - sum(isinstance(one, int) for one in here) == len(parts):
            seen[tuple(here)] += 1
        if count := seen[tuple(here)]:
            here.append(count - 1)
    return here


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def line_in_yaml(node: Any, path: Path) -> int:
    """The same, of a document that PyYAML has composed."""
    line = 1
    for part in path:
        pairs = node.value if isinstance(node.value, list) else ()
        if isinstance(part, int):
            if part >= len(pairs):
                break
            node = pairs[part]
        else:
            found = [pair for pair in pairs if isinstance(pair, tuple) and pair[0].value == part]
            if not found:
                break
            line = found[0][0].start_mark.line + 1
            node = found[0][1]
            continue
        line = node.start_mark.line + 1
    return line
