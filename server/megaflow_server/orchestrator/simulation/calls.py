"""Asking until there is an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from megaflow.errors import Unavailable
from megaflow_server.orchestrator.commands import Command
from megaflow_server.orchestrator.simulation.network import Network

__all__ = ["Call", "Process"]

# Seconds until a call is given up and made again.
_PATIENCE = 3.0


class Process(Protocol):
    """Who asks: nothing happens in it once it has ended.

    Attributes:
        life: which of the processes that followed each other under this name; it hears no answers to another's calls.
    """

    name: str
    life: int

    def later(self, delay: float, action: Callable[[], Any]) -> None: ...


class Call:
    """A command, sent again until there is an answer that is not Unavailable. Only the newest sending's answer counts.

    Attributes:
        sent: when it was sent the last time, by `clock`.
    """

    def __init__(
        self,
        process: Process,
        network: Network,
        clock: Callable[[], float],
        command: Command,
        answered: Callable[[Any], None],
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._process = process
        self._network = network
        self._clock = clock
        self._command = command
        self._answered = answered
        self._wanted = wanted
        self._number = 0
        self._over = False
        self.sent = clock()
        self._send()

    def _send(self) -> None:
        if self._over or not self._wanted():
            return
        self._number += 1
        number, self.sent = self._number, self._clock()
        process, life = self._process, self._process.life

        def arrived(value: Any) -> None:
            if process.life == life:
                process.later(0.0, lambda: self._arrived(number, value))

        self._network.ask(process.name, self._command, arrived)
        process.later(_PATIENCE, lambda: self._send() if number == self._number else None)

    def _arrived(self, number: int, value: Any) -> None:
        if self._over or number != self._number or isinstance(value, Unavailable):
            return  # it is sent again when patience is over
        self._over = True
        if self._wanted():
            self._answered(value)
