"""Who submits: jobs, tasks that may be there already, cancellations; each repeated until it was answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from megaflow_server.orchestrator.commands import (
    AddTasks,
    CancelJob,
    CancelTask,
    Command,
    CreateJob,
    NewTask,
    SealJob,
    SetTenant,
)
from megaflow_server.orchestrator.records import Resources, Timeouts
from megaflow_server.orchestrator.simulation.calls import Call
from megaflow_server.orchestrator.simulation.network import Network
from megaflow_server.orchestrator.simulation.world import World

__all__ = ["Acknowledged", "Client"]

_TASKS = 9
_CHUNK = 3


@dataclass(slots=True)
class Acknowledged:
    """What clients were told."""

    tasks: dict[str, str] = field(default_factory=dict)  # with their job's id
    keys: dict[tuple[str, str], set[str]] = field(
        default_factory=dict
    )  # of tenants: the tasks made of each
    cancelled: set[str] = field(default_factory=set)
    jobs_cancelled: set[str] = field(default_factory=set)


class Client:
    """Submits one job, and may cancel some of it.

    Attributes:
        submitted: whether all of it was acknowledged.
    """

    def __init__(
        self,
        name: str,
        world: World,
        network: Network,
        tenant: SetTenant,
        acknowledged: Acknowledged,
    ) -> None:
        self.name = name
        self.life = 0
        self.job = f"job-{name}"
        self.submitted = False
        self._world = world
        self._network = network
        self._tenant = tenant.name
        self._acknowledged = acknowledged
        first = CreateJob(self.job, self._tenant, seed=7)
        commands = [tenant, first, *self._tasks(), SealJob(self.job, self._tenant)]
        # Some submit while things go wrong already.
        begins = world.random.choice([0.0, 100 * world.random.random()])
        self.later(begins, lambda: self._in_turn(commands))
        if world.random.random() < 0.15:
            self.later(world.random.uniform(5, 90), self._cancel_job)

    def later(self, delay: float, action: Callable[[], Any]) -> None:
        self._world.after(delay, action)

    def _tasks(self) -> list[Command]:
        chance = self._world.random
        new = [
            NewTask(
                index,
                f'{{"env": "E{index % 2}"}}',
                sample=index % 2,
                priority=chance.choice([0, 0, 1]),
                requests=Resources(1, chance.choice([0.5, 1.0, 2.0]), 1 << 30),
                timeouts=self._timeouts(),
                environment=f"E{index % 2}",
            )
            for index in range(_TASKS)
        ]
        # The same for every client of a tenant: one task, whoever is first.
        new.append(NewTask(_TASKS, '{"env": "shared"}', key="once"))
        return [
            AddTasks(self.job, self._tenant, tuple(new[begin : begin + _CHUNK]))
            for begin in range(0, len(new), _CHUNK)
        ]

    def _timeouts(self) -> Timeouts:
        drawn = self._world.random.random()
        if drawn < 0.1:
            return Timeouts(start_to_close=10.0)
        if drawn < 0.2:
            return Timeouts(schedule_to_close=60.0)
        return Timeouts(schedule_to_start=30.0) if drawn < 0.3 else Timeouts()

    def _in_turn(self, commands: list[Command]) -> None:
        if not commands:
            self.submitted = True
            return
        command, rest = commands[0], commands[1:]

        def answered(answer: Any) -> None:
            if isinstance(command, AddTasks) and isinstance(answer, list):
                self._note(command, answer)
            self._in_turn(rest)

        self._ask(command, answered)

    def _note(self, command: AddTasks, ids: list[str]) -> None:
        for asked, name in zip(command.tasks, ids, strict=True):
            self._acknowledged.tasks[name] = self.job
            if asked.key:
                known = self._acknowledged.keys.setdefault((self._tenant, asked.key), set())
                known.add(name)
            elif self._world.random.random() < 0.1:
                self.later(self._world.random.uniform(0, 60), partial(self._cancel, name))

    def _cancel(self, task: str) -> None:
        cancelled = self._acknowledged.cancelled
        self._ask(CancelTask(task, self._tenant), lambda _: cancelled.add(task))

    def _cancel_job(self) -> None:
        def answered(left: Any) -> None:
            if left == 0:
                self._acknowledged.jobs_cancelled.add(self.job)
            elif isinstance(left, int):
                self._cancel_job()

        self._ask(CancelJob(self.job, self._tenant, most=2), answered)

    def _ask(self, command: Command, answered: Callable[[Any], None]) -> None:
        Call(self, self._network, lambda: self._world.now, command, answered)
