"""Steps per second of a vector environment: megaflow's beside gymnasium's own, in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

import megaflow
from megaflow.errors import InvalidArgument

Envs = gym.vector.VectorEnv[Any, Any, Any]

MEGAFLOW, SYNC, ASYNC = "megaflow", "SyncVectorEnv", "AsyncVectorEnv"

# The longest time that is stepped before the first measurement; seconds.
_WARM_UP = 0.5
# Batches of actions that are drawn beforehand and then repeated.
_ACTIONS = 64
_SEED = 1


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        num_envs: sizes, each measured by itself.
        seconds: length of one measurement.
        repeats: measurements of each contender, taken in turns.
        server: a gRPC target; None for an embedded server.
    """

    env: str = "CartPole-v1"
    num_envs: Sequence[int] = (1, 8, 64, 256)
    seconds: float = 1.0
    repeats: int = 5
    server: str | None = None


@dataclass
class Comparison:
    """The contenders at one size.

    Attributes:
        steps_per_second: of all sub-environments together; by contender, one for each repeat.
    """

    num_envs: int
    steps_per_second: dict[str, list[float]] = field(default_factory=dict)

    def median(self, contender: str) -> float:
        """Steps per second of a contender."""
        return statistics.median(self.steps_per_second[contender])

    def ratio(self, other: str) -> float:
        """How many times as fast megaflow is as another contender.

        The median of the repeats' own ratios: what slows the machine down for a while slows down both.
        """
        pairs = zip(self.steps_per_second[MEGAFLOW], self.steps_per_second[other], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def compare(plan: Plan, say: Callable[[str], None]) -> Iterator[Comparison]:
    """Measures one size after the other; `say` hears what is being done.

    Raises:
        InvalidArgument: gymnasium cannot make the environment in this process.
    """
    for num_envs in plan.num_envs:
        yield _compare(plan, num_envs, say)


def _compare(plan: Plan, num_envs: int, say: Callable[[str], None]) -> Comparison:
    comparison = Comparison(num_envs)
    with ExitStack() as stack:
        contenders: dict[str, Envs] = {}
        for name, make in _makers(plan, num_envs).items():
            say(f"{num_envs} × {plan.env}: starting {name}")
            contenders[name] = stack.enter_context(closing(make()))
        actions = _draw_actions(contenders[SYNC])
        for name, envs in contenders.items():
            comparison.steps_per_second[name] = []
            envs.reset(seed=_SEED)
            _measure(envs, actions, min(plan.seconds, _WARM_UP))
        for repeat in range(plan.repeats):
            for name, envs in contenders.items():
                say(f"{num_envs} × {plan.env}: {name}, {repeat + 1} of {plan.repeats}")
                envs.reset(seed=_SEED)
                comparison.steps_per_second[name].append(_measure(envs, actions, plan.seconds))
    return comparison


def _makers(plan: Plan, num_envs: int) -> dict[str, Callable[[], Envs]]:
    """The contenders, each as its users make it. AsyncVectorEnv forks, so it comes before any thread does."""
    return {
        ASYNC: lambda: _local(plan.env, num_envs, "async"),
        SYNC: lambda: _local(plan.env, num_envs, "sync"),
        MEGAFLOW: lambda: megaflow.make_vec(plan.env, num_envs, server=plan.server),
    }


def _local(env: str, num_envs: int, mode: str) -> Envs:
    try:
        return gym.make_vec(env, num_envs, vectorization_mode=mode)
    except (gym.error.Error, ImportError) as error:
        raise InvalidArgument(
            f"env={env!r}: {error} (it is measured in this process as well, so it must be here too)"
        ) from error


def _draw_actions(envs: Envs) -> list[Any]:
    envs.action_space.seed(_SEED)
    return [envs.action_space.sample() for _ in range(_ACTIONS)]


def _measure(envs: Envs, actions: Sequence[Any], seconds: float) -> float:
    """Steps of sub-environments per second, over at least so many seconds."""
    begin = now = time.perf_counter()
    steps = 0
    while now < begin + seconds:
        envs.step(actions[steps % len(actions)])
        steps += 1
        now = time.perf_counter()
    return steps * envs.num_envs / (now - begin)
