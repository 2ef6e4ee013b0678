"""The models of a job on the local server: those of the configuration in force, as they are when it is submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megaflow import Task
from megaflow.errors import InvalidArgument, NotFound
from megaflow.plugins import model_not_found
from megaflow_server.config import load
from megaflow_server.config_file import find
from megaflow_server.models.catalogue import check, kind_of, kinds, no_price
from megaflow_server.models.pins import named, pin, pinned
from megaflow_server.models.tables import ModelTable

__all__ = ["RunModels", "facts", "run_models"]

# What a manifest says of a model; nothing that may be secret.
_SAID = ("model", "base_urls")


@dataclass(frozen=True)
class RunModels:
    """What the names of a job's models mean.

    Attributes:
        pins: what stands for a name of the configuration; names that are registered are not here.
        tables: by pin.
        keys: the variables that these tables name.
        withheld: those that any table of the configuration names.
    """

    pins: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, ModelTable] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    withheld: frozenset[str] = frozenset()

    def of(self, task: Task) -> dict[str, str]:
        """A task's models, as it is to name them."""
        return {role: self.pins.get(name, name) for role, name in task.models.items()}


def run_models(
    names: Iterable[str], config: Path | None, kept: Path, *, priced: bool = False
) -> RunModels:
    """Look them up, and check that they can be made here.

    Args:
        names: of models; those of a job that is resumed are pins, and mean what their names mean now, if anything.
        config: None: the file that `config_file.find` finds.
        kept: where pinned tables are.
        priced: whether each is to have a price.

    Raises:
        NotFound: no model has one of these names.
        InvalidArgument: one has no price.
        InvalidArgument: names the file, the table and the key that is wrong.
    """
    path = config or find()
    tables = load(path, {}).models if path is not None else {}
    registered = kinds()
    chosen: dict[str, ModelTable] = {}
    for name in names:
        base = named(name)
        table = tables.get(base or name)
        if table is not None:
            chosen[name] = _checked(path, base or name, table)
            if base is not None:
                _same(name, chosen[name], kept)
        elif base is not None:
            chosen[name] = pinned(kept, [name])[name]
        elif ":" not in name and name not in registered:
            raise model_not_found(name, tables)
        if priced and (name not in chosen or chosen[name].price is None):
            raise no_price(base or name)
    pins = {name: pin(named(name) or name, table) for name, table in chosen.items()}
    return RunModels(
        pins,
        {pins[name]: table for name, table in chosen.items()},
        _variables(chosen.values()),
        _variables(tables.values()),
    )


def facts(table: ModelTable) -> dict[str, Any]:
    """What a manifest says of a model: its kind, the upstream's name for it, where that is, and what it costs."""
    price = None if table.price is None else table.price.model_dump(exclude_none=True)
    said = {key: table.settings[key] for key in _SAID if key in table.settings}
    return {"kind": table.kind, **said, "price": price}


def _checked(path: Path | None, name: str, table: ModelTable) -> ModelTable:
    """The table with its paths as they are seen from here."""
    try:
        paths = kind_of(name, table, kinds()).paths
        whole = table.model_copy(update={key: _absolute(table, key) for key in paths & table.keys})
        asyncio.run(check({name: whole}))
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.message}") from error
    return whole


def _absolute(table: ModelTable, key: str) -> object:
    value = table.settings[key]
    if isinstance(value, str) and Path(value).exists():
        return str(Path(value).absolute())
    return value


def _same(name: str, now: ModelTable, kept: Path) -> None:
    """A job that is resumed may find its models elsewhere, at another price; other models it may not."""
    try:
        before = pinned(kept, [name])[name]
    except NotFound:
        return
    was, is_ = ((table.kind, table.settings.get("model")) for table in (before, now))
    if was != is_:
        raise InvalidArgument(
            f"model {named(name)!r} was kind={was[0]!r}, model={was[1]!r} in this job, and the configuration says "
            f"kind={is_[0]!r}, model={is_[1]!r} now: run a job of its own with it"
        )


def _variables(tables: Iterable[ModelTable]) -> frozenset[str]:
    return frozenset().union(*(table.secrets for table in tables))
