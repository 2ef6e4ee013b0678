"""The models that a runner has by configuration, besides what is registered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megaflow_server.models.catalogue import ServedModel, made
from megaflow_server.models.pins import pinned
from megaflow_server.models.tables import ModelTable

__all__ = ["ConfiguredModels"]


class ConfiguredModels:
    """Makes the models of tables `[models.NAME]`, and those that pins stand for.

    One is made for all attempts, so that limits of connections, the choice among replicas and their warm caches
    are the runner's; but for those whose class says `per_attempt`.

    Args:
        pins: where `megaflow run` keeps tables; None: nowhere.
    """

    def __init__(self, tables: Mapping[str, ModelTable], pins: Path | None = None) -> None:
        self._tables = tables
        self._pins = pins
        self._shared: dict[str, ServedModel] = {}

    @property
    def names(self) -> list[str]:
        """Of the tables."""
        return list(self._tables)

    def get(self, name: str) -> ServedModel | None:
        """The model of this name; None where nothing is configured so.

        Whoever asked closes it where its class says `per_attempt`; the others are closed by `close`.

        Raises:
            InvalidArgument: it cannot be made: names the table and the key.
            NotFound: it is a pin whose table is gone.
        """
        if name in self._shared:
            return self._shared[name]
        table = self._tables.get(name)
        if table is None and self._pins is not None:
            table = pinned(self._pins, [name]).get(name)
        if table is None:
            return None
        served = made({name: table})[name]
        if not served.model.per_attempt:
            self._shared[name] = served
        return served

    async def close(self) -> None:
        """Let go of all that are shared."""
        for served in self._shared.values():
            await served.model.close()
        self._shared.clear()
