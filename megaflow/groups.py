"""Groups of rollouts for training: who is in one, when it is done, and who is asked again. No input or output here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from megaflow.calls import CallRecord, Row, rows
from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.generation import WeightVersion
from megaflow.task import Result, Task
from megaflow.trajectory import ModelCall, TrajectoryReader

__all__ = ["GroupTable", "Grouping", "RolloutGroup"]


@dataclass(frozen=True)
class Grouping:
    """How samples of a task become a group.

    Attributes:
        group_size: rollouts with a reward that make a group whole.
        invalid: what becomes of a rollout without one: "again" has another sample take its place, with a seed of
            its own, as long as there are `spare` ones; "partial" leaves its place empty.
        spare: samples more than `group_size` for a group; None: as many as `group_size`.
        min_size, patience: once this many have a reward the others have so many seconds, and are cancelled then.
            None: they are waited for.
    """

    group_size: int = 8
    invalid: Literal["again", "partial"] = "again"
    spare: int | None = None
    min_size: int | None = None
    patience: float | None = None

    def __post_init__(self) -> None:
        _check("group_size", self.group_size, 1)
        if self.invalid not in ("again", "partial"):
            raise InvalidArgument(f"invalid={self.invalid!r}: give 'again' or 'partial'")
        if self.spare is not None:
            _check("spare", self.spare, 0)
        if (self.min_size is None) != (self.patience is None):
            raise InvalidArgument("min_size and patience: give both, or neither")
        if self.min_size is not None and self.patience is not None:
            _check("min_size", self.min_size, 1)
            if self.min_size > self.group_size:
                raise InvalidArgument(
                    f"min_size={self.min_size}: is over group_size={self.group_size}"
                )
            if not self.patience >= 0:  # refuses nan, too
                raise InvalidArgument(f"patience={self.patience!r}: give seconds from 0")

    @property
    def most(self) -> int:
        """Samples of one group."""
        if self.invalid == "partial":
            return self.group_size
        return self.group_size + (self.group_size if self.spare is None else self.spare)


def _check(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{name}={value!r}: give a whole number from {least}")


@dataclass(frozen=True)
class RolloutGroup:
    """Rollouts of one task.

    Attributes:
        index: of the task, counted from 0.
        results: those with a reward, `group_size` at most, by sample.
        spoilt: those without one.
        complete: whether there are `group_size`.
        rewards: of `results`, one each.
    """

    task: Task
    index: int
    results: tuple[Result, ...]
    spoilt: tuple[Result, ...]
    complete: bool
    rewards: tuple[float | None, ...]

    def oldest_version(self) -> int | None:
        """Of the weights that its rows were sampled with; None where it has no rows.

        Raises:
            FailedPrecondition: the engine says no versions, or none that are numbers; and as `rows`.
        """
        known = [row.weight_versions for row in self.rows()]
        versions: list[WeightVersion] = []
        for some in known:
            if some is None:
                raise FailedPrecondition(
                    "max_staleness: the engine does not say which weights it has; see `weight version` in the table of "
                    "models, or leave it out"
                )
            versions += [one for one in some if one is not None]
        numbers = [one for one in versions if isinstance(one, int)]
        if len(numbers) < len(versions):
            raise FailedPrecondition(
                "max_staleness: the versions of the engine's weights are text: give numbers, or leave it out"
            )
        return min(numbers, default=None)

    def rows(self) -> list[Row]:
        """What a trainer takes of them: the branches of each, read from its trajectory.

        Raises:
            FailedPrecondition: a call has no token ids, or what a kind of store takes is not installed.
            NotFound, Unavailable: a trajectory is not within reach of this process.
        """
        found: list[Row] = []
        for result, reward in zip(self.results, self.rewards, strict=True):
            records = TrajectoryReader(result.trajectory, arrays=False)
            calls = (
                CallRecord.from_dict(one.call) for one in records if isinstance(one, ModelCall)
            )
            found += rows(calls, reward=reward)
        return found


@dataclass
class _Group:
    task: Task
    index: int
    origin: int  # the index of the task: another than the group's, once there were other tries
    samples: int  # that were asked for, in all
    under_way: set[int]
    valid: dict[int, Result] = field(default_factory=dict)
    spoilt: dict[int, Result] = field(default_factory=dict)
    enough_since: float | None = None


class GroupTable:
    """The groups that are under way, and those that are done and not yet taken."""

    def __init__(self, grouping: Grouping, clock: Callable[[], float]) -> None:
        self._grouping = grouping
        self._clock = clock
        self._groups: dict[int, _Group] = {}
        self._done: list[RolloutGroup] = []
        self._next = self._tasks = 0

    @property
    def kept(self) -> int:
        """How many there are of both."""
        return len(self._groups) + len(self._done)

    def begin(self, task: Task, origin: int | None = None) -> Iterator[tuple[int, int]]:
        """A group of a task: (index, sample) of each that is to be asked for.

        Args:
            origin: the index of the task, where it is another try at one.
        """
        index, size = self._next, self._grouping.group_size
        self._next += 1
        if origin is None:
            origin = self._tasks
            self._tasks += 1
        self._groups[index] = _Group(task, index, origin, size, set(range(size)))
        return ((index, sample) for sample in range(size))

    def task(self, index: int) -> Task:
        """Of a group that is under way."""
        return self._groups[index].task

    def take(self, result: Result) -> tuple[int, int] | None:
        """A sample has ended; another that is to be asked for in its place, if one is."""
        group = self._groups.get(result.index)
        if group is None or result.sample not in group.under_way:
            return None  # of a group that waited for it no longer
        group.under_way.discard(result.sample)
        again = None
        if result.valid and result.reward is not None:
            group.valid[result.sample] = result
            if len(group.valid) == self._grouping.min_size:
                group.enough_since = self._clock()
        else:
            group.spoilt[result.sample] = result
            if group.samples < self._grouping.most:
                again = group.samples
                group.samples += 1
                group.under_way.add(again)
        if not group.under_way:
            self._finish(group)
        return None if again is None else (group.index, again)

    def overdue(self) -> list[tuple[int, int]]:
        """What is waited for no longer, to be cancelled: its groups are done without it."""
        late = []
        for group in list(self._groups.values()):
            if self._left(group) == 0:
                late += [(group.index, sample) for sample in sorted(group.under_way)]
                self._finish(group)
        return late

    def wait(self) -> float | None:
        """Seconds until something is overdue; None: nothing will be, as it is now."""
        left = [self._left(group) for group in self._groups.values()]
        return min((one for one in left if one is not None), default=None)

    def pop(self) -> RolloutGroup | None:
        """A group that is done, those that were done first before others."""
        return self._done.pop(0) if self._done else None

    def _left(self, group: _Group) -> float | None:
        if group.enough_since is None or self._grouping.patience is None:
            return None
        return max(0.0, group.enough_since + self._grouping.patience - self._clock())

    def _finish(self, group: _Group) -> None:
        del self._groups[group.index]
        results = _by_sample(group.valid)
        self._done.append(
            RolloutGroup(
                group.task,
                group.origin,
                results,
                _by_sample(group.spoilt),
                len(results) == self._grouping.group_size,
                tuple(result.reward for result in results),
            )
        )


def _by_sample(results: dict[int, Result]) -> tuple[Result, ...]:
    ordered: Sequence[int] = sorted(results)
    return tuple(results[sample] for sample in ordered)
