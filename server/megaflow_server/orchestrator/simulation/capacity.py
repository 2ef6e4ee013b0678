"""How long many tasks take on so many machines, and what that costs: scheduled by the orchestrator's own code.

Three ways of running them. *Ephemeral*: a machine of its own for each task, created when the task starts; clouds
create only so many a minute. *Persistent*: machines that are there, and are made clean between two tasks. *Large*: few
machines that each hold many tasks. The defaults are figures of the MegaFlow paper: start-up below a minute on
persistent machines and from one minute to six between 1 and 1,000 ephemeral ones, 100 minutes for a task. Prices are
such that its 32 % between many small machines and few large ones come out at 2,000 tasks.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from megaflow.errors import MegaflowError
from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    Advance,
    Claim,
    Claimed,
    Command,
    CreateJob,
    Finish,
    NewTask,
    RegisterRunner,
)
from megaflow_server.orchestrator.records import Outcome, Resources
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.simulation.world import World
from megaflow_server.orchestrator.store.memory import MemoryStore

__all__ = ["MODES", "Answer", "Question", "answer", "answers"]

MODES: Final = ("ephemeral", "persistent", "large")
_DONE = Outcome(True, 1.0)
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Question:
    """Of one capacity.

    Attributes:
        tasks: how many are submitted at once.
        nodes: machines of the small kind; large ones are as many as hold as many tasks.
        minutes: that a task takes, give or take `spread`, a fraction of it.
        boot: seconds until a machine that was created is there.
        creations: machines created in a minute.
        clean: seconds until a persistent machine, or a place on a large one, takes the next task.
        price, large_price: of an hour of a machine, in USD.
        large_slots: tasks that a large machine holds.
    """

    tasks: int
    nodes: int
    minutes: float = 100.0
    spread: float = 0.05
    boot: float = 60.0
    creations: float = 200.0
    clean: float = 45.0
    price: float = 0.30
    large_price: float = 22.0
    large_slots: int = 50
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Attributes:
        hours: until the last task had ended.
        start_up, start_up_most: seconds from a task's claim until it ran: the median, and the most.
        per_hour: tasks that ended, an hour.
        utilisation: of what was paid for, the part in which tasks ran.
        cost, cost_per_task: USD.
    """

    mode: str
    tasks: int
    hours: float
    start_up: float
    start_up_most: float
    per_hour: float
    utilisation: float
    cost: float
    cost_per_task: float


def answers(question: Question, counts: Sequence[int]) -> list[Answer]:
    """For each mode and each number of tasks, on as many processors as there are."""
    asked = [(question, mode, count) for count in sorted(counts, reverse=True) for mode in MODES]
    # Not by forks of a process that may have gRPC's threads.
    apart = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(min(len(asked), os.cpu_count() or 1), mp_context=apart) as pool:
        found = list(pool.map(_answer, asked))
    return sorted(found, key=lambda one: (MODES.index(one.mode), one.tasks))


def answer(question: Question, mode: str, tasks: int) -> Answer:
    """For one mode."""
    with _without_collections():
        return _Run(question, mode, tasks).answer()


def _answer(asked: tuple[Question, str, int]) -> Answer:
    return answer(*asked)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Millions of records that all stay are not looked through for garbage again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Run:
    """Machines that claim, execute and finish, one task after the other."""

    def __init__(self, question: Question, mode: str, tasks: int) -> None:
        self._question = question
        self._mode = mode
        self._tasks = tasks
        self._world = World(question.seed)
        self._store = MemoryStore()
        self._policy = RetryPolicy()
        self._slots = question.large_slots if mode == "large" else 1
        places = min(question.nodes, tasks)
        self._machines = math.ceil(places / self._slots)
        self._requests: dict[str, int] = {}
        self._created = -math.inf  # when the machine that was asked for last is created
        self._start_ups: list[float] = []
        self._busy = 0.0
        self._paid = 0.0  # seconds of ephemeral machines
        self._last = self._begin = self._world.now

    def answer(self) -> Answer:
        self._submit()
        for number in range(self._machines):
            self._ask(RegisterRunner(f"m{number}", Resources(self._slots, 0.0, 0)))
        for number in range(self._machines):
            self._claim(f"m{number}", 1, [])
        self._world.run(math.inf)
        return self._sum_up()

    def _submit(self) -> None:
        self._ask(CreateJob("j", "ann", self._question.seed))
        for begin in range(0, self._tasks, _CHUNK):
            indices = range(begin, min(begin + _CHUNK, self._tasks))
            self._ask(AddTasks("j", "ann", tuple(NewTask(index, "{}") for index in indices)))

    def _ask(self, *commands: Command) -> list[object]:
        answers = carry_out(self._store, commands, lambda: self._world.now, self._policy)
        assert not any(isinstance(one, MegaflowError) for one in answers)
        return answers

    def _claim(self, machine: str, request: int, ended: list[Command]) -> None:
        """Report what has ended, and take as much as there is room for."""
        *_, claimed = self._ask(*ended, Claim(machine, self._slots, request))
        assert isinstance(claimed, list)
        for one in claimed:
            self._execute(machine, one)
        self._requests[machine] = request

    def _execute(self, machine: str, one: Claimed) -> None:
        question, chance = self._question, self._world.random
        starts = self._start_up()
        takes = 60 * question.minutes * chance.uniform(1 - question.spread, 1 + question.spread)
        self._start_ups.append(starts)
        self._busy += takes
        if self._mode == "ephemeral":
            self._paid += question.boot + takes
        task, fence = one.task.id, one.task.fence
        self._world.after(starts, lambda: self._advance(Advance(task, fence)))
        self._world.after(starts + takes, lambda: self._finish(machine, Finish(task, fence, _DONE)))

    def _start_up(self) -> float:
        """Seconds until a task that was claimed now runs."""
        if self._mode != "ephemeral":
            return self._question.clean
        pause = 60 / self._question.creations
        begins = max(self._world.now, self._created + pause)
        self._created = begins
        return begins - self._world.now + self._question.boot

    def _advance(self, advance: Advance) -> None:
        self._ask(advance)

    def _finish(self, machine: str, finish: Finish) -> None:
        self._last = self._world.now
        self._claim(machine, self._requests[machine] + 1, [finish])

    def _sum_up(self) -> Answer:
        hours = (self._last - self._begin) / 3600
        question = self._question
        if self._mode == "ephemeral":
            machine_hours, price = self._paid / 3600, question.price
        else:
            machine_hours = hours * self._machines
            price = question.large_price if self._mode == "large" else question.price
        cost = machine_hours * price
        return Answer(
            mode=self._mode,
            tasks=self._tasks,
            hours=hours,
            start_up=statistics.median(self._start_ups),
            start_up_most=max(self._start_ups),
            per_hour=self._tasks / hours,
            utilisation=self._busy / 3600 / (machine_hours * self._slots),
            cost=cost,
            cost_per_task=cost / self._tasks,
        )
