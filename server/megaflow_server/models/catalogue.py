"""The models that a configuration names, made of what is registered as `megaflow.models`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from megaflow.calls import Price
from megaflow.errors import InvalidArgument, MegaflowError
from megaflow.model import Model
from megaflow_server.models.tables import ModelTable

__all__ = ["ServedModel", "check", "kind_of", "kinds", "made", "no_price"]

_GROUP = "megaflow.models"
# What brings the packages that kinds of ours need.
_EXTRAS = {"aiohttp": "models", "torch": "transformers", "transformers": "transformers"}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, and what is said of it beside."""

    name: str
    kind: str
    model: Model
    price: Price | None


def kinds() -> dict[str, EntryPoint]:
    """What is registered, by name."""
    return {each.name: each for each in entry_points(group=_GROUP)}


def made(tables: Mapping[str, ModelTable]) -> dict[str, ServedModel]:
    """The models, by name.

    Raises:
        InvalidArgument: names the table and the key that is wrong, a variable that is not set, or the package
            that a kind needs.
    """
    known = kinds()
    return {name: _made(name, table, known) for name, table in tables.items()}


async def check(tables: Mapping[str, ModelTable]) -> None:
    """Raises InvalidArgument where `made` would."""
    for served in made(tables).values():
        await served.model.close()


def no_price(name: str) -> InvalidArgument:
    """What is said of a model whose calls would have to be counted in USD, and cannot be."""
    return InvalidArgument(
        f"model {name!r} has no price, and what the job may cost is limited: give [models.{name.partition('@')[0]}] a "
        "price, or allow models without one: --unpriced, `unpriced = true`"
    )


def kind_of(name: str, table: ModelTable, known: Mapping[str, EntryPoint]) -> type[Model]:
    """The class of a table's models. Raises InvalidArgument."""
    where = f"models.{name}"
    if table.kind not in known:
        close = difflib.get_close_matches(table.kind, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
        raise InvalidArgument(f"{where}.kind = {table.kind!r}: is no kind of model; {hint}")
    try:
        kind = known[table.kind].load()
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        wanted = f"megaflow[{_EXTRAS[package]}]" if package in _EXTRAS else package
        raise InvalidArgument(
            f"{where}.kind = {table.kind!r}: needs {package}: pip install '{wanted}'"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Model)):
        raise InvalidArgument(
            f"{where}.kind = {table.kind!r}: {known[table.kind].value} is no megaflow.model.Model"
        )
    return kind


def _made(name: str, table: ModelTable, known: Mapping[str, EntryPoint]) -> ServedModel:
    kind = kind_of(name, table, known)
    try:
        model = kind.configured(table.settings)
    except MegaflowError as error:
        raise InvalidArgument(f"models.{name}.{error.message}") from error
    price = None if table.price is None else table.price.price()
    return ServedModel(name, table.kind, model, price)
