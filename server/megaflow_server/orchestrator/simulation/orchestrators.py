"""An orchestrator: group commit, the watch over leases, the clock of limits, and its own death."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from megaflow.errors import Unavailable
from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import Command, ExpireRunner, Wake
from megaflow_server.orchestrator.lease_watch import LeaseWatch
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.simulation.network import Answered
from megaflow_server.orchestrator.simulation.observed import ObservedStore
from megaflow_server.orchestrator.simulation.world import World

__all__ = ["Orchestrator"]

# Seconds.
_TICK = 2.0
_COMMIT = 0.004
# So few tasks and attempts at once that there are more to do again and again.
_AT_ONCE = 2


class Orchestrator:
    """One of several over one store.

    Attributes:
        jump: seconds by which its clock of the day is wrong; its monotonic one is not.
        commit: seconds that a transaction takes.
    """

    def __init__(self, name: str, world: World, store: ObservedStore, policy: RetryPolicy) -> None:
        self.name = name
        self.jump = 0.0
        self.commit = _COMMIT
        self._world = world
        self._store = store
        self._policy = policy
        self._life = 0
        self._up = False
        self._asked: list[tuple[Command, Answered]] = []
        self._busy = False
        self.start()

    def start(self) -> None:
        """Begin, as after a crash: nothing is known but what the store has."""
        if self._up:
            return
        self._up = True
        self._life += 1
        self._asked, self._busy = [], False
        self._watch = LeaseWatch()
        self._later(_TICK * self._world.random.random(), self._tick)

    def crash(self) -> None:
        """SIGKILL: what was asked and not answered is lost."""
        self._up = False

    def receive(self, command: Command, answered: Answered) -> None:
        if self._up:
            self._asked.append((command, answered))
            self._go()

    def _go(self) -> None:
        if self._asked and not self._busy:
            self._busy = True
            self._later(self.commit, self._commit)

    def _commit(self) -> None:
        batch, self._asked, self._busy = self._asked, [], False
        answers = self._carry_out([command for command, _ in batch])
        for (_, answered), answer in zip(batch, answers, strict=True):
            answered(answer)
        self._go()

    def _carry_out(self, commands: list[Command]) -> list[Any]:
        try:
            answers = carry_out(self._store, commands, self._clock, self._policy)
        except Unavailable as error:
            answers = [error] * len(commands)
        for command, answer in zip(commands, answers, strict=True):
            self._world.say(f"{self.name} {_brief(command)}: {_brief(answer)}")
        return answers

    def _tick(self) -> None:
        self._later(_TICK, self._tick)
        self._by_itself(Wake(_AT_ONCE))
        try:
            runners = self._store.runners()
        except Unavailable:
            return
        for runner in self._watch.look(runners, self._world.now):
            command = ExpireRunner(runner.id, runner.renewals, _AT_ONCE)
            # Not at once: the runner may renew its lease meanwhile.
            self._later(self.commit, partial(self._by_itself, command))

    def _by_itself(self, command: Command) -> None:
        """Carry out a command, and again while its answer says that there is more to do."""
        (answer,) = self._carry_out([command])
        if answer is True:
            self._later(self.commit, lambda: self._by_itself(command))

    def _clock(self) -> float:
        return self._world.now + self.jump

    def _later(self, delay: float, action: Any) -> None:
        life = self._life
        self._world.after(delay, lambda: action() if self._up and self._life == life else None)


def _brief(value: Any) -> str:
    """For the trace: what kind of thing, and which."""
    kind: Any = type(value)
    said = [kind.__name__]
    for name in _telling(kind):
        one = getattr(value, name)
        if one is not None:
            said.append(str(one))
    return " ".join(said)


@cache
def _telling(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in ("runner", "task", "fence", "job", "id") if hasattr(kind, name))
