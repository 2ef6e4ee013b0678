"""A job in figures: pass@k, rewards, the time of each phase, and how much ran at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from megaflow import AsyncClient, TaskStatus
from megaflow_server.jobs.progress import failure_class
from megaflow_server.jobs.results import Gathered

__all__ = ["PHASES", "Percentiles", "Report", "histories", "pass_at", "report_of"]

# What a task waits or works in, in the order in which it goes through them.
PHASES = ("queued", "retrying", "starting", "running", "evaluating")
# Questions to the server at once.
_AT_ONCE = 32
# A reward from which on a sample counts as passed.
PASSED = 1.0
_BINS = 20


@dataclass(frozen=True)
class Percentiles:
    """Seconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Report:
    """What there is to say of a job.

    Attributes:
        pass_at: for each k up to the samples of a task, the chance that one of k samples has a reward of 1.
        rewards: of the samples that have one.
        phases: how long a sample was in each, all its attempts together.
        failures: how many of each class.
        concurrency: seconds since submission, and how many attempts a runner had from then on.
        cost: USD of all calls of models, of attempts that came to nothing, too; None where nobody can tell.
        known_cost: of those calls whose cost is known.
    """

    title: str
    tasks: int
    samples: int
    broken: int
    pass_at: Mapping[int, float]
    rewards: tuple[float, ...]
    phases: Mapping[str, Percentiles]
    failures: Mapping[str, int]
    concurrency: tuple[tuple[float, int], ...]
    cost: float | None = None
    known_cost: float = 0.0

    @property
    def cost_per_task(self) -> float | None:
        """All samples of a task together; None where the cost is not known."""
        return self.cost / self.tasks if self.cost is not None and self.tasks else None

    @property
    def cost_per_valid(self) -> float | None:
        """What all samples have cost, for each that has a reward; None where that is not known, or none has."""
        return self.cost / len(self.rewards) if self.cost is not None and self.rewards else None

    @property
    def mean(self) -> float | None:
        return sum(self.rewards) / len(self.rewards) if self.rewards else None

    @property
    def peak(self) -> int:
        return max((count for _, count in self.concurrency), default=0)

    @property
    def wall(self) -> float:
        """Seconds from the submission to the last end."""
        return self.concurrency[-1][0] if self.concurrency else 0.0

    @property
    def utilisation(self) -> float | None:
        """How much of the most that ever ran at once ran on average; None where nothing ran."""
        if not self.peak or not self.wall:
            return None
        area = sum(
            count * (after - at)
            for (at, count), (after, _) in zip(self.concurrency, self.concurrency[1:], strict=False)
        )
        return area / (self.peak * self.wall)

    def histogram(self) -> tuple[Sequence[int], Sequence[float]]:
        """Counts of rewards, and the edges between them: from 0 to 1 at least, so that two jobs look alike."""
        within = min((0.0, *self.rewards)), max((1.0, *self.rewards))
        counts, edges = np.histogram(self.rewards, bins=_BINS, range=within)
        return [int(one) for one in counts], list(map(float, edges))


def report_of(gathered: Gathered, statuses: Sequence[TaskStatus]) -> Report:
    """Args: statuses: of the job's tasks, for their histories."""
    by_task: dict[int, list[float]] = defaultdict(list)
    failures: dict[str, int] = defaultdict(int)
    for (index, _), result in gathered.results.items():
        if result.valid and result.reward is not None:
            by_task[index].append(result.reward)
        if (name := failure_class(result)) is not None:
            failures[name] += 1
    most = max(map(len, by_task.values()), default=0)
    return Report(
        title=gathered.status.name or gathered.status.id,
        tasks=len(gathered.names),
        samples=gathered.total,
        broken=len(gathered.broken),
        pass_at={k: found for k in range(1, most + 1) if (found := _pass(by_task, k)) is not None},
        rewards=tuple(reward for rewards in by_task.values() for reward in rewards),
        phases=_phases(statuses),
        failures=dict(sorted(failures.items(), key=lambda one: -one[1])),
        concurrency=_concurrency(statuses, gathered.status.submitted.timestamp()),
        cost=gathered.cost,
        known_cost=gathered.known_cost,
    )


def pass_at(samples: int, passed: int, k: int) -> float:
    """The chance that one of k samples passes, drawn from so many of which so many passed, without bias."""
    return 1.0 - comb(samples - passed, k) / comb(samples, k)


def _pass(by_task: Mapping[int, Sequence[float]], k: int) -> float | None:
    """Over the tasks that have so many samples; None where none has."""
    chances = [
        pass_at(len(rewards), sum(one >= PASSED for one in rewards), k)
        for rewards in by_task.values()
        if len(rewards) >= k
    ]
    return sum(chances) / len(chances) if chances else None


def _phases(statuses: Sequence[TaskStatus]) -> Mapping[str, Percentiles]:
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for status in statuses:
        spent: dict[str, float] = defaultdict(float)
        for event, after in zip(status.events, status.events[1:], strict=False):
            spent[event.after] += (after.at - event.at).total_seconds()
        for phase, found in seconds.items():
            if phase in spent:
                found.append(spent[phase])
    return {
        phase: Percentiles(*map(float, np.percentile(found, [50, 95, 99])))
        for phase, found in seconds.items()
        if found
    }


def _concurrency(statuses: Sequence[TaskStatus], begin: float) -> tuple[tuple[float, int], ...]:
    changes: dict[float, int] = defaultdict(int)
    active = set(PHASES[2:])
    for status in statuses:
        for event in status.events:
            change = (event.after in active) - (event.before in active)
            changes[max(0.0, event.at.timestamp() - begin)] += change
    count, found = 0, []
    for at, change in sorted(changes.items()):
        count += change
        found.append((at, count))
    return tuple(found)


async def histories(address: str, tasks: Sequence[str]) -> list[TaskStatus]:
    """What a server knows of tasks, by their ids."""
    room = asyncio.Semaphore(_AT_ONCE)
    async with AsyncClient(address) as client:

        async def one(task: str) -> TaskStatus:
            async with room:
                return await client.why(task)

        return list(await asyncio.gather(*map(one, tasks)))
