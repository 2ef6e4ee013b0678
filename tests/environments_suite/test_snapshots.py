"""Snapshots and forks: the same actions give the same observations, wherever they go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import megaflow
from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SessionLost,
)
from megaflow_server.gateway.lending import Held
from megaflow_server.gateway.snapshots import SnapshotTable, Taken
from megaflow_server.templates import Template


class Walk(gym.Env[Any, Any]):
    """A walk by a random generator; an action of -1 ends its worker."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Discrete(10, start=-1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=3)
        return self.place.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.place += action * self.np_random.normal(size=3)
        return self.place.copy(), float(self.place[0]), False, False, {"action": action}

    def get_state(self) -> dict[str, Any]:
        return {"place": self.place}

    def set_state(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


class Forgetful(gym.Wrapper[Any, Any, Any, Any]):
    """Counts, and does not say."""


class Mindless(gym.Env[Any, Any]):
    """Has no state to give."""

    observation_space = action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}


class Counting(gym.Wrapper[Any, Any, Any, Any]):
    """Adds how many steps there were, and says so."""

    steps = 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation + self.steps, reward, terminated, truncated, info

    def get_state(self) -> int:
        return self.steps

    def set_state(self, state: int) -> None:
        self.steps = state


def within(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """All of gymnasium's own wrappers that change from step to step and fit an array."""
    wrappers = gym.wrappers
    env = wrappers.PassiveEnvChecker(env)
    env = wrappers.StickyAction(wrappers.OrderEnforcing(env), 0.5, (1, 3))
    env = wrappers.TimeLimit(Counting(env), 12)
    env = wrappers.NormalizeReward(wrappers.NormalizeObservation(env))
    env = wrappers.DelayObservation(wrappers.RecordEpisodeStatistics(env), 2)
    env = wrappers.TimeAwareObservation(wrappers.FrameStackObservation(env, 3), flatten=True)
    return wrappers.Autoreset(wrappers.MaxAndSkipObservation(env, 2))


ACTIONS = [3, 1, 4, 1, 5, 2, 6]


def played(env: Any, actions: list[int] = ACTIONS) -> list[Any]:
    return [told(env.step(action)) for action in actions]


def told(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """A step bit for bit, but for what a clock says."""
    observation, reward, terminated, truncated, info = result
    if "episode" in info:
        info["episode"].pop("t")
    return (
        np.asarray(observation).tobytes(),
        np.asarray(reward).tobytes(),
        terminated,
        truncated,
        repr(info),
    )


@pytest.fixture
def client() -> Iterator[megaflow.Client]:
    with megaflow.Client() as client:
        yield client


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("before", [0, 1, 4])
def test_the_same_actions_give_the_same_after_it(
    client: megaflow.Client, wrapped: bool, before: int
) -> None:
    wrappers: Any = [within] if wrapped else []
    env: Any = client.make(Walk, wrappers=wrappers)
    another: Any = client.make(Walk, wrappers=wrappers)
    forks: list[Any] = []
    try:
        env.reset(seed=5)
        at = [env.reset(seed=5)[0], *(env.step(2)[0] for _ in range(before))][-1]
        snapshot = env.unwrapped.snapshot()
        forks = client.fork(env, 2)
        expected = played(env)
        assert len({step[0] for step in expected}) > 1
        for one in (env, another):
            observation, info = one.reset(options={"snapshot": snapshot})
            assert (observation.tobytes(), info) == (at.tobytes(), {"snapshot": snapshot})
            assert played(one) == expected
        assert [played(one) for one in forks] == [expected, expected]
        # Each goes its own way, and another fork begins where the one before is.
        assert played(forks[0], [8] * 6) != played(forks[1], [0] * 6)
        (later,) = client.fork(forks[0], 1)
        forks.append(later)
        assert played(later) == played(forks[0])
    finally:
        for one in (env, another, *forks):
            one.close()


def test_it_outlives_its_session_and_its_worker(client: megaflow.Client) -> None:
    env: Any = client.make(Walk)
    env.reset(seed=5)
    snapshot = env.snapshot()
    expected = played(env)
    with pytest.raises(SessionLost):
        env.step(-1)
    env.reset(options={"snapshot": snapshot})
    assert played(env) == expected
    env.close()
    with megaflow.Client() as other:
        again: Any = other.make(Walk)
        again.reset(options={"snapshot": snapshot})
        assert played(again) == expected
        other.drop_snapshot(snapshot)
        other.drop_snapshot(snapshot)
        with pytest.raises(NotFound, match=snapshot):
            again.reset(options={"snapshot": snapshot})
        again.close()


async def test_awaited() -> None:
    async with megaflow.AsyncClient() as client, await client.make(Walk) as env:
        await env.reset(seed=5)
        snapshot = await env.snapshot()
        forks = await client.fork(env, 2)
        expected = [told(await env.step(action)) for action in ACTIONS]
        await env.reset(options={"snapshot": snapshot})
        for one in (env, *forks):
            assert [told(await one.step(action)) for action in ACTIONS] == expected
        for one in forks:
            await one.close()
        await client.drop_snapshot(snapshot)
        with pytest.raises(InvalidArgument, match="n=0"):
            await client.fork(env, 0)


@pytest.mark.parametrize(
    ("make", "wrappers", "name"),
    [
        (Mindless, [], "environment .*:Mindless"),
        (Walk, [Forgetful], "wrapper .*:Forgetful"),
    ],
)
def test_what_has_no_state_is_named_with_the_way_out(
    client: megaflow.Client, make: Any, wrappers: Any, name: str
) -> None:
    env: Any = client.make(make, wrappers=wrappers)
    try:
        env.reset(seed=5)
        for attempt in (env.snapshot, lambda: client.fork(env, 2)):
            with pytest.raises(FailedPrecondition, match=name + r".*get_state\(\)"):
                attempt()
        assert env.reset(seed=5)[1] == {}
    finally:
        env.close()


def test_what_cannot_be_is_refused(client: megaflow.Client) -> None:
    env: Any = client.make(Walk)
    other: Any = client.make(Walk, wrappers=[Counting])
    envs: Any = client.make_vec(Walk, num_envs=2)
    try:
        with pytest.raises(ResetNeeded):
            env.snapshot()
        env.reset(seed=5)
        snapshot = env.snapshot()
        other.reset(seed=5)
        with pytest.raises(FailedPrecondition, match="other wrappers"):
            other.reset(options={"snapshot": snapshot})
        for options, seed, what in (
            ({"snapshot": snapshot, "x": 1}, None, "x with"),
            ({"snapshot": snapshot}, 1, "seed with"),
            ({"snapshot": 1}, None, "takes the id"),
        ):
            with pytest.raises(InvalidArgument, match=what):
                env.reset(seed=seed, options=options)
        with pytest.raises(InvalidArgument, match="no single environment"):
            client.fork(envs, 1)
        # None of this has changed where it is.
        (fork,) = client.fork(env, 1)
        assert played(fork) == played(env)
        fork.close()
    finally:
        for one in (env, other, envs):
            one.close()


def test_inline_keeps_none() -> None:
    env: Any = megaflow.make(Walk, server="inline")
    env.reset(seed=5)
    with pytest.raises(FailedPrecondition, match="leave server= out"):
        env.snapshot()
    env.close()


def test_there_are_no_more_than_so_many_and_the_unused_go() -> None:
    now = 0.0
    gone: list[str] = []

    def on_gone(taken: Taken) -> None:
        gone.append(taken.owner)

    table = SnapshotTable(
        lambda: now, on_gone=on_gone, most=2, most_bytes=100, most_disk=50, unused=10.0
    )

    def taken(owner: str, size: int = 10, **rest: Any) -> Taken:
        return Taken(owner, b"", b"x" * size, b"", rest.pop("images", {}), **rest)

    one = table.put(
        taken("a", images={"sandbox": Held("i", Template("box"))}, origins=frozenset({"j"}))
    )
    now = 5.0
    two = table.put(taken("a"))
    with pytest.raises(ResourceExhausted, match="drop_snapshot"):
        table.put(taken("a"))
    with pytest.raises(ResourceExhausted, match=r"its 101 bytes .* over 100 or"):
        table.put(taken("b", 101))
    large = {"sandbox": Held("l", Template("box"), size=30)}
    large_one = table.put(taken("c", images=large))
    with pytest.raises(ResourceExhausted, match="60 of images over 100 or 50"):
        table.put(taken("c", images=large))
    table.drop(large_one, "c")
    gone.clear()
    table.put(taken("b"))
    now = 9.0
    assert table.use(two, "a").owner == "a"
    assert (table.owns("i"), table.owns("j"), table.owns("k")) == (True, True, False)
    assert gone == []
    now = 10.0
    assert not table.owns("i")
    assert gone == ["a"]
    with pytest.raises(NotFound):
        table.use(one, "a")
    with pytest.raises(megaflow.PermissionDenied):
        table.use(two, "b")
    with pytest.raises(megaflow.PermissionDenied):
        table.drop(two, "b")
    table.drop(two, "a")
    table.drop(two, "a")
    assert gone == ["a", "a"]
    with pytest.raises(NotFound):
        table.use(two, "a")
