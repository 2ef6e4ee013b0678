"""Two jobs of the same tasks: by how much one is better than the other, and how sure that is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megaflow_server.jobs.results import Gathered

__all__ = ["LEAST", "Comparison", "Pair", "compared"]

_RESAMPLES, _SEED = 10_000, 0
_CONFIDENCE = 0.95
# Samples of each job from which on a difference may be sure. That all of five go one way is chance once in 2 ** 4, and
# resampling, which knows no others than these, would never say so.
LEAST = 6
# What two means that are equal may differ by.
_EQUAL = 1e-9


@dataclass(frozen=True)
class Pair:
    """A task's rewards in both jobs; of samples without a valid result there are none."""

    name: str
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def difference(self) -> float:
        return float(np.mean(self.after) - np.mean(self.before))

    @property
    def flaky(self) -> bool:
        """Whether samples of one job differ: a change may be chance."""
        return any(max(one) - min(one) > _EQUAL for one in (self.before, self.after))


@dataclass(frozen=True)
class Comparison:
    """What comes of it.

    Attributes:
        pairs: tasks with a valid result in both, by name.
        lacking: names of tasks without one in either.
        low, high: between these lies the mean difference, with 95 % confidence: of tasks drawn anew, and of samples
            within them, by bootstrap.
    """

    pairs: tuple[Pair, ...]
    lacking: tuple[str, ...]
    low: float
    high: float

    @property
    def before(self) -> float:
        return _mean([float(np.mean(pair.before)) for pair in self.pairs])

    @property
    def after(self) -> float:
        return _mean([float(np.mean(pair.after)) for pair in self.pairs])

    @property
    def few(self) -> bool:
        """Whether there are too few samples for anything to be sure."""
        before = sum(len(pair.before) for pair in self.pairs)
        return min(before, sum(len(pair.after) for pair in self.pairs)) < LEAST

    @property
    def regressed(self) -> bool:
        """Whether the second is worse, chance aside."""
        return self.high < -_EQUAL and not self.few

    @property
    def improved(self) -> bool:
        return self.low > _EQUAL and not self.few

    @property
    def worse(self) -> tuple[Pair, ...]:
        """Tasks that fell, most first."""
        fell = [pair for pair in self.pairs if pair.difference < -_EQUAL]
        return tuple(sorted(fell, key=lambda pair: (pair.difference, pair.name)))

    @property
    def better(self) -> tuple[Pair, ...]:
        rose = [pair for pair in self.pairs if pair.difference > _EQUAL]
        return tuple(sorted(rose, key=lambda pair: (-pair.difference, pair.name)))


def compared(one: Gathered, other: Gathered) -> Comparison:
    """Two jobs, task by task, by their names."""
    before, after = _rewards(one), _rewards(other)
    names = sorted(before.keys() | after.keys())
    pairs = tuple(
        Pair(name, tuple(before[name]), tuple(after[name]))
        for name in names
        if before.get(name) and after.get(name)
    )
    paired = {pair.name for pair in pairs}
    low, high = _interval(pairs)
    return Comparison(pairs, tuple(name for name in names if name not in paired), low, high)


def _rewards(gathered: Gathered) -> Mapping[str, Sequence[float]]:
    """Those that count, by task; every task that the job has is there."""
    found: dict[str, list[float]] = defaultdict(list)
    names = gathered.names
    for name in names.values():
        found[name] = []
    for (index, _), result in sorted(gathered.results.items()):
        rewards = found[names.get(index, str(index))]
        if result.valid and result.reward is not None:
            rewards.append(result.reward)
    return found


def _interval(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Of the mean difference, by resampling tasks and their samples: the same numbers give the same interval."""
    if not pairs:
        return 0.0, 0.0
    generator = np.random.default_rng(_SEED)
    # A task's mean of samples drawn anew, for each resample: one that is drawn twice in it has the same both times,
    # which makes the interval rather wider.
    drawn = np.stack(
        [_means(pair.after, generator) - _means(pair.before, generator) for pair in pairs]
    )
    means = [one[generator.integers(0, len(one), len(one))].mean() for one in drawn.T]
    edge = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(means, [edge, 100 - edge])
    return float(low), float(high)


def _means(samples: Sequence[float], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Of so many drawn with replacement, once for each resample."""
    drawn = generator.choice(np.asarray(samples), (_RESAMPLES, len(samples)))
    return np.asarray(drawn.mean(axis=1))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
