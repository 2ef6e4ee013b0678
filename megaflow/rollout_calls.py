"""Rollouts for training: groups are asked for, followed and handed on, blocking or awaited (see transport/io.py)."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from megaflow.errors import BudgetExhausted, InvalidArgument, MegaflowError, NotFound
from megaflow.groups import Grouping, GroupTable, RolloutGroup
from megaflow.job_calls import WAIT, JobCalls, Opened, Tasks, cancel_task, each_task, open_job
from megaflow.task import Result, Task

__all__ = ["GroupReward", "RolloutCalls"]

GroupReward: TypeAlias = Callable[
    [RolloutGroup], "Iterable[float | None] | Awaitable[Iterable[float | None]]"
]
"""The rewards of a group's results, one each, in place of their own; None leaves one unscored."""


class RolloutCalls:
    """One run of rollouts: a job that grows as its groups are taken.

    Args:
        ahead: groups that are under way, or done and not taken, at once.
        replaced: fields of every task that are given for all.
        version: the version of the trainer's weights, whenever it is asked.
        max_staleness: versions that a group's weights may be older; None: any.

    Attributes:
        stale: how many groups were older, and were made anew.
    """

    def __init__(
        self,
        opened: Opened,
        tasks: Tasks,
        grouping: Grouping,
        *,
        replaced: Mapping[str, Any],
        ahead: int = 16,
        group_reward: GroupReward | None = None,
        version: Callable[[], int] | None = None,
        max_staleness: int | None = None,
        name: str = "",
        seed: int | None = None,
        max_cost: float | None = None,
        unpriced: bool = False,
    ) -> None:
        if isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 1:
            raise InvalidArgument(f"ahead={ahead!r}: give a whole number from 1")
        if (version is None) != (max_staleness is None):
            raise InvalidArgument("version and max_staleness: give both, or neither")
        if max_staleness is not None and (type(max_staleness) is not int or max_staleness < 0):
            raise InvalidArgument(f"max_staleness={max_staleness!r}: give a whole number from 0")
        self._opened = opened
        self._version, self._max_staleness = version, max_staleness
        self.stale = 0
        self._tasks = each_task(tasks)
        self._table = GroupTable(grouping, time.monotonic)
        self._samples = grouping.most
        self._ahead = ahead
        self._replaced = dict(replaced)
        self._reward = group_reward
        self._open = partial(
            open_job, opened, name=name, seed=seed, max_cost=max_cost, unpriced=unpriced
        )
        self._max_cost, self._spent = max_cost, False
        self._exhausted = False
        self._after = 0
        self._ids: dict[tuple[int, int], str] = {}  # of what is under way

    async def groups(self) -> AsyncGenerator[RolloutGroup, None]:
        """Groups as they are done. What is still under way when it is closed is cancelled.

        Raises:
            BudgetExhausted: it has cost what it may; groups that were done by then came before.
        """
        job = await self._open()
        whole = False
        try:
            while True:
                await self._fill(job)
                if (group := self._table.pop()) is not None:
                    if self._is_stale(group):
                        self.stale += 1
                        places = self._table.begin(group.task, group.index)
                        await self._ask(job, group.task, list(places))
                    else:
                        yield await self._rewarded(group)
                elif self._spent and not self._ids:
                    raise BudgetExhausted(
                        f"max_cost={self._max_cost!r}: spent, and {self._table.kept} groups of job {job.id} are "
                        "not whole; give more for what is left"
                    )
                elif self._table.kept:
                    await self._follow(job)
                else:
                    break
            await job.seal()
            whole = True
        finally:
            if not whole:
                # Who closes it has what it wants; a server that is away ends with its tasks.
                with suppress(MegaflowError):
                    await job.cancel("its rollouts were closed")

    async def _fill(self, job: JobCalls) -> None:
        while not (self._exhausted or self._spent) and self._table.kept < self._ahead:
            task = await anext(self._tasks, None)
            if task is None:
                self._exhausted = True
            elif isinstance(task, Task):
                task = dataclasses.replace(task, **self._replaced)
                await self._ask(job, task, list(self._table.begin(task)))
            else:
                raise InvalidArgument(f"tasks: {task!r:.100}: give megaflow.Task(…)")

    async def _follow(self, job: JobCalls) -> None:
        left = self._table.wait()
        answer = await job.wait_results(self._after, WAIT if left is None else min(WAIT, left))
        for message in answer.results:
            self._after = message.done
            await self._take(job, Result.of(message))
        for place in self._table.overdue():
            with suppress(NotFound):  # it ended long ago
                await cancel_task(self._opened, self._ids.pop(place), "its group is done")

    async def _take(self, job: JobCalls, result: Result) -> None:
        waited_for = self._ids.pop((result.index, result.sample), None) is not None
        if waited_for and result.state == "cancelled" and not self._spent:
            self._spent = (await job.status()).spent
        if self._spent and not result.valid:
            return  # no other takes its place, and its group is not done
        again = self._table.take(result)
        if again is not None:
            await self._ask(job, self._table.task(again[0]), [again])

    async def _ask(self, job: JobCalls, task: Task, places: list[tuple[int, int]]) -> None:
        messages = [task.message(index, sample, self._samples) for index, sample in places]
        self._ids |= zip(places, await job.add(messages), strict=True)

    def _is_stale(self, group: RolloutGroup) -> bool:
        if self._version is None or self._max_staleness is None:
            return False
        oldest = group.oldest_version()
        return oldest is not None and self._version() - oldest > self._max_staleness

    async def _rewarded(self, group: RolloutGroup) -> RolloutGroup:
        if self._reward is None:
            return group
        given = self._reward(group)
        rewards = tuple(await given if inspect.isawaitable(given) else given)
        if len(rewards) != len(group.results):
            raise InvalidArgument(
                f"group_reward: gave {len(rewards)} rewards for a group of {len(group.results)} results"
            )
        return dataclasses.replace(group, rewards=rewards)
