"""What a person has written, against a model of what may be there: the fault, in words, with its place."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from megaflow.errors import InvalidArgument
from megaflow_server.faults import expected

__all__ = ["checked"]

Model = TypeVar("Model", bound=BaseModel)

# Characters of a value that an error repeats.
_MOST = 100


def checked(
    model: type[Model], found: object, place: Callable[[Sequence[str | int]], str]
) -> Model:
    """What was written, as a model.

    Args:
        place: where a key is written, such as "job.toml:3".

    Raises:
        InvalidArgument: names the place, the key and the value, and of an unknown key the nearest known one.
    """
    try:
        return model.model_validate(found)
    except ValidationError as error:
        fault = _first(error.errors())
        where = fault["loc"]
        raise InvalidArgument(f"{place(where)}: {_wrong(model, fault, where)}") from None


def _first(faults: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fault to tell: of a key that is missing because it is misspelt, that."""
    first = faults[0]
    if first["type"] == "missing":
        *table, name = first["loc"]
        for one in faults:
            beside = one["type"] == "extra_forbidden" and list(one["loc"][:-1]) == table
            if beside and difflib.get_close_matches(str(one["loc"][-1]), [str(name)]):
                return one
    return first


def _wrong(model: type[BaseModel], fault: Mapping[str, Any], where: Sequence[str | int]) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)[1:]
    if fault["type"] == "extra_forbidden":
        known = _known(model, where)
        close = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return f"unknown key {key}; {hint}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    given = repr(fault["input"])
    shown = given if len(given) <= _MOST else given[:_MOST] + "…"
    try:
        instead = expected(fault)
    except KeyError:  # a fault that needs no words of ours
        instead = fault["msg"]
    return f"{key} = {shown}: {instead}" if key else instead


def _known(model: type[BaseModel], where: Sequence[str | int]) -> list[str]:
    """The keys of the table that a key is in."""
    for part in where[:-1]:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _table(None if field is None else field.annotation)
        if inner is not None:
            model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _table(kind: Any) -> type[BaseModel] | None:
    """The model within a type such as `list[Table]` or `Table | None`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for one in get_args(kind) if (found := _table(one)) is not None), None)
