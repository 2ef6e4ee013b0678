"""Which objects a query means: label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from megaflow_server.testing.kube.store import Refusal

__all__ = ["Selector", "selector"]

# Whether an object is meant.
Selector = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)")
_EQUALITY = re.compile(r"([^!=\s]+)\s*(==|=|!=)\s*([^!=\s]*)")
# A comma that is not within parentheses.
_COMMA = re.compile(r",(?![^(]*\))")


def selector(labels: str, fields: str) -> Selector:
    """What matches both; either may be "".

    Raises:
        Refusal: 400, one of them cannot be read.
    """
    terms = [
        *(_label_term(term.strip()) for term in _COMMA.split(labels) if labels),
        *(_field_term(term.strip()) for term in fields.split(",") if fields),
    ]
    return lambda found: all(term(found) for term in terms)


def _label_term(term: str) -> Selector:
    if match := _SET.fullmatch(term):
        key, operator, values = match.groups()
        chosen = {value.strip() for value in values.split(",")}
        return lambda found: (_labels(found).get(key) in chosen) == (operator == "in")
    if match := _EQUALITY.fullmatch(term):
        key, operator, value = match.groups()
        return lambda found: (_labels(found).get(key) == value) == (operator != "!=")
    if not term or not re.fullmatch(r"!?[\w./-]+", term):
        raise Refusal(400, "BadRequest", f"unable to parse requirement: {term!r}")
    if term.startswith("!"):
        return lambda found: term[1:] not in _labels(found)
    return lambda found: term in _labels(found)


def _field_term(term: str) -> Selector:
    match = _EQUALITY.fullmatch(term)
    if match is None:
        raise Refusal(400, "BadRequest", f"invalid selector: {term!r}")
    path, operator, value = match.groups()
    return lambda found: (_field(found, path) == value) == (operator != "!=")


def _labels(found: Mapping[str, Any]) -> Mapping[str, str]:
    return found["metadata"].get("labels") or {}


def _field(found: Any, path: str) -> str:
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return "" if found is None else str(found)
