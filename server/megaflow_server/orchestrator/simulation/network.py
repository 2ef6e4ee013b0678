"""Messages: late, twice, or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from megaflow_server.orchestrator.commands import Command
from megaflow_server.orchestrator.simulation.world import World

__all__ = ["Answered", "Network", "Server"]

Answered = Callable[[Any], None]

# Seconds; and how likely each is while the network misbehaves.
_USUAL = 0.002
_LATE = 12.0
_NEVER, _TWICE, _DELAYED = 0.06, 0.05, 0.08


class Server(Protocol):
    """What takes commands; an answer is its value or the error it was refused with."""

    name: str

    def receive(self, command: Command, answered: Answered) -> None: ...


class Network:
    """Between askers and orchestrators.

    Attributes:
        misbehaves: whether messages get lost, doubled and late.
        cut: askers that reach nobody, nor anybody them.
    """

    def __init__(self, world: World, servers: list[Server]) -> None:
        self._world = world
        self._servers = servers
        self.misbehaves = False
        self.cut: set[str] = set()

    def ask(self, asker: str, command: Command, answered: Answered) -> None:
        """Send a command to one of the orchestrators. The answer comes once, or never."""
        server = self._world.random.choice(self._servers)
        waiting = [answered]

        def answer(value: Any) -> None:
            if waiting:
                waiting.pop()(value)

        def reply(value: Any) -> None:
            self._send(asker, lambda: answer(value))

        twice = self.misbehaves and self._world.random.random() < _TWICE
        for _ in range(1 + twice):
            self._send(asker, lambda: server.receive(command, reply))

    def _send(self, asker: str, arrive: Callable[[], None]) -> None:
        chance = self._world.random
        if asker in self.cut or (self.misbehaves and chance.random() < _NEVER):
            return
        delay = _USUAL * (0.5 + chance.random())
        if self.misbehaves and chance.random() < _DELAYED:
            delay += _LATE * chance.random()
        # A message that is under way when its link is cut does not come through either.
        self._world.after(delay, lambda: None if asker in self.cut else arrive())
