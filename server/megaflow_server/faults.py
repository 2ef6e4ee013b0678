"""What pydantic finds wrong with a value, in words for whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["expected"]

# By pydantic's name of a fault, with what it says of it.
_EXPECTED = {
    "bool_type": "give true or false",
    "dict_type": "give a table",
    "finite_number": "give a number that is neither inf nor nan",
    "float_type": "give a number",
    "greater_than": "give more than {gt:g}",
    "greater_than_equal": "give {ge:g} or more",
    "int_type": "give a whole number",
    "literal_error": "give {expected}",
    "list_type": 'give a list, such as ["…"]',
    "model_type": "give a table",
    "path_type": "give a path, in quotes",
    "string_too_short": "give text, in quotes",
    "string_type": "give text, in quotes",
    "too_short": "give at least one",
}


def expected(fault: Mapping[str, Any]) -> str:
    """What is to be given instead: the half-sentence after the value."""
    if fault["type"] == "value_error":  # in our own words
        return str(fault["ctx"]["error"])
    return _EXPECTED[fault["type"]].format(**fault.get("ctx", {}))
