"""TOML and YAML as people write them: what stands there, where each key is, and what neither may hold."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from megaflow.errors import InvalidArgument
from megaflow_server.jobs.lines import line_in_toml, line_in_yaml

__all__ = ["Line", "read_toml", "read_yaml"]

Line: TypeAlias = Callable[[Sequence[str | int]], int]
"""The line of a key, from 1."""

_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


def read_toml(path: Path, text: str) -> tuple[object, Line]:
    """Raises InvalidArgument, with the line."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{path}: {error}") from None
    return _without_dates(path, found, lambda where: line_in_toml(text, where))


def read_yaml(path: Path, text: str) -> tuple[object, Line]:
    """Raises InvalidArgument, with the line: also for a key that stands twice, of which PyYAML takes the last."""
    try:
        import yaml
    except ImportError:
        raise InvalidArgument(
            f"{path}: reading YAML needs PyYAML: pip install 'megaflow[server]', or write TOML"
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        for line, wrong in _wrong_keys(node):
            raise InvalidArgument(f"{path}:{line}: {wrong}")
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else f"{path}"
        raise InvalidArgument(f"{place}: no YAML: {getattr(error, 'problem', error)}") from None
    return _without_dates(path, found, lambda where: line_in_yaml(node, where))


def _wrong_keys(root: Any) -> Iterator[tuple[int, str]]:
    """Of a document that PyYAML has composed: keys that are no text or stand in their table twice.

    The line of each, and what is wrong with it.
    """
    waiting = [root]
    seen = set()  # what an alias names is there twice
    while waiting:
        node = waiting.pop()
        if not isinstance(getattr(node, "value", None), list) or id(node) in seen:
            continue
        seen.add(id(node))
        first: dict[str, int] = {}
        for item in node.value:
            if not isinstance(item, tuple):
                waiting.append(item)
                continue
            key, value = item
            waiting.append(value)
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                continue
            if key.tag != _TEXT:
                shown = key.value if isinstance(key.value, str) else "a table or a list"
                yield line, f"the key {shown} is no text: put it in quotes"
            elif key.value in first:
                yield line, f"{key.value} is given twice, first in line {first[key.value]}"
            else:
                first[key.value] = line


def _without_dates(path: Path, found: object, line: Line) -> tuple[object, Line]:
    waiting: list[tuple[list[str | int], object]] = [([], found)]
    seen = set()  # YAML's aliases may even name what they are in
    while waiting:
        where, value = waiting.pop()
        if id(value) in seen:
            continue
        if isinstance(value, dict | list):
            seen.add(id(value))
        if isinstance(value, dict):
            waiting += [([*where, key], inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [([*where, place], inner) for place, inner in enumerate(value)]
        elif isinstance(value, datetime.date | datetime.time):
            key = ".".join(map(str, where))
            raise InvalidArgument(
                f"{path}:{line(where)}: {key} = {value}: a date; put it in quotes"
            )
    return found, line
