"""Rollouts for training, blocking and awaited: see `Client.rollouts`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, TypedDict

from megaflow.groups import Grouping, RolloutGroup
from megaflow.job_calls import Opened, Tasks
from megaflow.rollout_calls import GroupReward, RolloutCalls
from megaflow.transport.io import run

__all__ = ["AsyncRollouts", "RolloutOptions", "Rollouts", "rollout_calls"]

_GROUPING = ("group_size", "invalid", "spare", "min_size", "patience")
_OF_TASKS = ("agent", "agent_kwargs", "models")


class RolloutOptions(TypedDict, total=False):
    """What `Client.rollouts` takes.

    Attributes:
        agent, agent_kwargs, models: of every task, in place of its own.
        group_size, invalid, spare, min_size, patience: see `megaflow.groups.Grouping`.
        ahead: groups that are under way, or done and not yet taken, at once; 16. So nothing runs further ahead of the
            trainer.
        group_reward: gives the rewards of a group, in place of its results' own; on an `AsyncClient` it may be a
            coroutine function.
        version: gives the version of the trainer's weights, as it tells engines, whenever it is asked.
        max_staleness: versions that the weights behind any token of a group may be older than that when it is taken;
            an older one is made anew, with other seeds, and counted in `stale`. None: as old as they are.
        name, seed, max_cost, unpriced: of the job that they are; see `Client.submit`. Once they have cost so much,
            groups that are done are handed on, and BudgetExhausted is raised.
    """

    agent: str
    agent_kwargs: Mapping[str, Any]
    models: Mapping[str, str]
    group_size: int
    invalid: Literal["again", "partial"]
    spare: int | None
    min_size: int | None
    patience: float | None
    ahead: int
    group_reward: GroupReward | None
    version: Callable[[], int] | None
    max_staleness: int | None
    name: str
    seed: int | None
    max_cost: float | None
    unpriced: bool


def rollout_calls(opened: Opened, tasks: Tasks, options: RolloutOptions) -> RolloutCalls:
    """Raises InvalidArgument, with the option's name."""
    given: dict[str, Any] = dict(options)
    grouping = {name: given.pop(name) for name in _GROUPING if name in given}
    replaced = {name: given.pop(name) for name in _OF_TASKS if name in given}
    return RolloutCalls(opened, tasks, Grouping(**grouping), replaced=replaced, **given)


class Rollouts(Iterator[RolloutGroup]):
    """Groups as they are done, from `Client.rollouts`; closing it cancels what is under way."""

    def __init__(self, calls: RolloutCalls) -> None:
        self._calls, self._groups = calls, calls.groups()

    @property
    def stale(self) -> int:
        """Groups that were too old when their turn came, and were made anew."""
        return self._calls.stale

    def __next__(self) -> RolloutGroup:
        group = run(_next(self._groups))
        if group is None:
            raise StopIteration
        return group

    def close(self) -> None:
        """Cancel what is under way. Idempotent."""
        run(self._groups.aclose())

    def __enter__(self) -> Rollouts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncRollouts(AsyncIterator[RolloutGroup]):
    """As `Rollouts`, from `AsyncClient.rollouts`."""

    def __init__(self, calls: RolloutCalls) -> None:
        self._calls, self._groups = calls, calls.groups()

    @property
    def stale(self) -> int:
        """See `Rollouts.stale`."""
        return self._calls.stale

    async def __anext__(self) -> RolloutGroup:
        return await anext(self._groups)

    async def close(self) -> None:
        """Cancel what is under way. Idempotent."""
        await self._groups.aclose()

    async def __aenter__(self) -> AsyncRollouts:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


async def _next(groups: AsyncIterator[RolloutGroup]) -> RolloutGroup | None:
    return await anext(groups, None)
