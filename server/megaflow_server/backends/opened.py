"""The backends that a server uses, each made once, when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable

from megaflow_server.backends import get_backend
from megaflow_server.backends.base import Backend

__all__ = ["OpenedBackends"]


class OpenedBackends:
    """Backends by their names.

    Args:
        first: one that is there already, and its owner's to close.
        make: makes another; InvalidArgument or FailedPrecondition where it cannot.
        on_open: told of each before it is used.
    """

    def __init__(
        self,
        first: Backend,
        make: Callable[[str], Backend] = get_backend,
        on_open: Callable[[Backend], None] = lambda backend: None,
    ) -> None:
        self._first = first
        self._make = make
        self._on_open = on_open
        self._by_name = {first.name: first}
        on_open(first)

    def __call__(self, name: str) -> Backend:
        """The one of this name."""
        if name not in self._by_name:
            backend = self._make(name)
            self._on_open(backend)
            self._by_name[name] = backend
        return self._by_name[name]

    def all(self) -> list[Backend]:
        """Those that are in use."""
        return list(self._by_name.values())

    async def close(self) -> None:
        """Let go of those that were made here."""
        for backend in self.all():
            if backend is not self._first:
                await backend.close()
