"""What is awaited is what blocks: the same calls give the same results and errors, bit for bit."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.wrappers import TimeLimit

import megaflow
from faces import AwaitedFace, BlockingFace, Face
from zoo.counter import CounterEnv

Script = Callable[[Face], list[Any]]


class Walk(gym.Env[Any, Any]):
    """Observes its own random numbers, ends after a few steps, and fails in the ways that it is told."""

    observation_space = gym.spaces.Dict(
        {"place": gym.spaces.Box(0, 1, (2,), np.float32), "step": gym.spaces.Discrete(100)}
    )
    action_space = gym.spaces.Discrete(5)
    metadata = {"render_modes": ["rgb_array"]}
    scale = 1.0

    def __init__(self, length: int = 3, render_mode: str | None = None) -> None:
        self.length, self.render_mode = length, render_mode
        self.steps = 0

    def _observation(self) -> dict[str, Any]:
        place = self.np_random.random(2, dtype=np.float32)
        return {"place": place, "step": np.int64(self.steps)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {"options": options or {}}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 2:
            raise ZeroDivisionError("as told")
        if action == 3:
            raise StopIteration("as told")
        if action == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1
        reward = float(self.np_random.random()) * self.scale
        return self._observation(), reward, self.steps == self.length, False, {"at": self.steps}

    def render(self) -> Any:
        return np.full((2, 2, 3), self.steps, dtype=np.uint8)

    def twice(self, value: int, *, plus: int = 0) -> int:
        return 2 * value + plus

    def pid(self) -> int:
        return os.getpid()


class Broken(Walk):
    """Cannot be made."""

    def __init__(self) -> None:
        raise LookupError("no such level")


def told(call: Callable[[], Any]) -> Any:
    """What a call returns, or what it raises; the process that died has another name each time."""
    try:
        return call()
    except Exception as error:
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
            error = error.__cause__  # which no coroutine may raise
        # A worker may have printed something before it died, or not.
        text = re.sub(
            r"(?s)\. The last lines of its log:.*?(?=; sub-environments|$)", "", str(error)
        )
        text = re.sub(r"worker-\d+|\d+\.\d+ s|process \d+", "…", text).replace("AsyncR", "R")
        return type(error).__name__, text.splitlines()[0], getattr(error, "indices", None)


def single(face: Face) -> list[Any]:
    env = face.make(Walk, env_kwargs={"length": 2}, render_mode="rgb_array")
    log: list[Any] = [env.observation_space, env.action_space, env.metadata, env.render_mode]
    log += [env.spec.kwargs["env_kwargs"], told(lambda: env.reset(seed="x"))]
    log += [env.reset(seed=7), env.step(0), env.step(1), env.reset(options={"a": [1]})]
    log += [env.call("twice", 4, plus=1), env.call("length"), env.render()]
    log += [env.set_wrapper_attr("scale", 3.0), env.call("scale"), env.step(0)]
    log += [told(lambda: env.step(2)), told(lambda: env.step(3)), env.step(0)]
    log += [told(lambda: env.step(object())), told(lambda: env.call("nothing"))]
    env.close()
    return [*log, told(lambda: env.step(0)), told(env.reset), env.close()]


def wrapped(face: Face) -> list[Any]:
    env = face.make(CounterEnv, wrappers=[limited])
    return [env.reset(seed=1), env.step(0), env.step(0), env.spec.kwargs["env_id"]]


def limited(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return TimeLimit(env, 2)


def refused(face: Face) -> list[Any]:
    return [
        told(lambda: face.make(Broken)),
        told(lambda: face.make("CartPoel-v1")),
        told(lambda: face.make_vec(Broken, 3)),
        told(lambda: face.make_vec(Walk, 0)),
        told(lambda: face.make_vec(Walk, 2, on_lost="ignore")),
        told(lambda: face.make_vec(Walk, 2, per_env_kwargs=[{}])),
        told(lambda: face.make(Walk, step_timeout=-1)),
        told(lambda: face.make_vec(Walk, 2, reset_timeout="soon")),
    ]


def vector(mode: str) -> Script:
    def script(face: Face) -> list[Any]:
        envs = face.make_vec(Walk, 5, autoreset_mode=mode, env_kwargs={"length": 2})
        actions = np.zeros(5, dtype=np.int64)
        log: list[Any] = [envs.num_envs, envs.observation_space, envs.action_space]
        log += [envs.single_observation_space, envs.single_action_space, envs.metadata]
        log += [envs.autoreset_mode, envs.spec.kwargs]
        log += [envs.reset(seed=3), envs.step(actions), envs.step(actions)]
        if mode == "Disabled":
            log.append(told(lambda: envs.step(actions)))
            mask = np.array([True, False, True, True, False])
            log.append(envs.reset(options={"reset_mask": mask}))
            log.append(envs.reset(options={"reset_mask": ~mask}))
        log += [envs.step(actions), envs.reset(seed=[5, None, 6, 7, None])]
        log += [envs.call("twice", 1, plus=2), envs.get_attr("length")]
        log += [envs.set_attr("scale", [1, 2, 3, 4, 5]), envs.get_attr("scale")]
        log += [envs.step(actions), told(lambda: envs.set_attr("scale", [1]))]
        log += [told(lambda: envs.step(np.array([0, 0, 2, 0, 0]))), told(lambda: envs.call("step"))]
        log += [told(lambda: envs.step(actions[:2])), told(lambda: envs.reset(seed=[1]))]
        log += [envs.reset(seed=4), envs.step(actions)]
        envs.close()
        return [*log, envs.closed, told(lambda: envs.step(actions)), envs.close()]

    return script


def native(face: Face) -> list[Any]:
    envs = face.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point")
    log = [envs.reset(seed=1), envs.step(np.ones(3, dtype=np.int64)), envs.metadata]
    return [*log, told(lambda: envs.reset(seed=[1, 2, 3]))]


SCRIPTS: dict[str, Script] = {
    "single": single,
    "wrapped": wrapped,
    "refused": refused,
    "NextStep": vector("NextStep"),
    "SameStep": vector("SameStep"),
    "Disabled": vector("Disabled"),
    "native": native,
}


def both(server: str | None, script: Script) -> None:
    with BlockingFace(server) as blocking, AwaitedFace(server) as awaited:
        for number, (one, other) in enumerate(zip(script(blocking), script(awaited), strict=True)):
            assert data_equivalence(one, other, exact=True), (number, one, other)


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_both_faces_do_the_same(name: str, server: str | None) -> None:
    both(server, SCRIPTS[name])


def losing(on_lost: str, mode: str) -> Script:
    def script(face: Face) -> list[Any]:
        options = {"on_lost": on_lost, "autoreset_mode": mode, "lost_reward": -1.0}
        envs = face.make_vec(Walk, 5, env_kwargs={"length": 50}, **options)
        actions = np.zeros(5, dtype=np.int64)
        log = [envs.reset(seed=3), envs.step(actions)]
        pids = envs.call("pid")
        lost = np.array([pid == pids[0] for pid in pids])
        log.append(lost)
        log.append(told(lambda: envs.step(np.where(lost, 4, 0))))
        log.append(told(lambda: envs.call("length")))
        log.append(told(lambda: envs.step(actions)))
        if on_lost == "raise" or mode == "Disabled":
            log.append(told(lambda: envs.reset(options={"reset_mask": lost})))
        log += [told(lambda: envs.step(actions)), told(lambda: envs.step(actions))]
        return [*log, envs.reset(seed=1), envs.step(actions)]

    return script


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("on_lost", ["raise", "truncate"])
def test_both_faces_lose_the_same(on_lost: str, mode: str) -> None:
    both(None, losing(on_lost, mode))


def test_both_faces_make_a_lost_environment_anew() -> None:
    def script(face: Face) -> list[Any]:
        env = face.make(Walk)
        log = [env.reset(seed=1), told(lambda: env.step(4)), told(lambda: env.step(0))]
        return [*log, env.reset(seed=1), env.step(0)]

    both(None, script)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


@pytest.mark.long
@pytest.mark.parametrize("kind", [BlockingFace, AwaitedFace])
def test_a_step_that_takes_too_long_is_told_by_its_name(kind: type[Face], gate: Path) -> None:
    options: dict[str, Any] = {"step_timeout": 0.2, "env_kwargs": {"gate": str(gate), "goal": 99}}
    with kind(None) as face:
        env = face.make("zoo/Gated-v0", **options)
        envs = face.make_vec("zoo/Gated-v0", 2, **options)
        env.reset(seed=1)
        envs.reset(seed=1)
        actions = np.zeros(2, dtype=np.int64)
        steps: list[Callable[[], Any]] = [lambda: env.step(0), lambda: envs.step(actions)]
        for step in steps:
            for _ in range(6):  # more often than requests may be outstanding
                with pytest.raises(
                    megaflow.DeadlineExceeded, match=r"^step: .*step_timeout=0\.2 s"
                ) as caught:
                    step()
                assert caught.value.infrastructure
        gate.touch()
        assert env.reset(seed=1)[0][1] == 0.0
        assert env.step(0)[0][1] == 1.0
        assert envs.reset(seed=1)[0][:, 1].tolist() == [0.0, 0.0]
        assert envs.step(actions)[0][:, 1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", [BlockingFace, AwaitedFace])
def test_a_reset_waits_for_a_step_that_is_overdue_as_long_as_it_may(
    kind: type[Face], gate: Path
) -> None:
    with kind(None) as face:
        options: dict[str, Any] = {"step_timeout": 0.1, "reset_timeout": 0.3}
        env = face.make("zoo/Gated-v0", env_kwargs={"gate": str(gate)}, **options)
        envs = face.make_vec("zoo/Gated-v0", 2, env_kwargs={"gate": str(gate)}, **options)
        env.reset()
        envs.reset()
        with pytest.raises(megaflow.DeadlineExceeded, match=r"^step: "):
            env.step(0)
        with pytest.raises(megaflow.DeadlineExceeded, match=r"^step: "):
            envs.step(np.zeros(2, dtype=np.int64))
        for reset in (env.reset, envs.reset):
            with pytest.raises(megaflow.DeadlineExceeded, match=r"^reset: .*reset_timeout=0\.3 s"):
                reset()
        gate.touch()
        assert env.reset()[0][1] == 0.0
        assert envs.reset()[0][:, 1].tolist() == [0.0, 0.0]


class SlowToMake(Walk):
    """Takes its time to be made."""

    def __init__(self) -> None:
        time.sleep(3.0)
        super().__init__()


@pytest.mark.long
@pytest.mark.parametrize("kind", [BlockingFace, AwaitedFace])
def test_an_environment_that_is_not_made_in_time(kind: type[Face]) -> None:
    with kind(None) as face:
        told_so = r"^env_start: .*env_start_timeout"
        with pytest.raises(megaflow.DeadlineExceeded, match=told_so):
            face.make(SlowToMake, env_start_timeout=0.5)
        with pytest.raises(megaflow.DeadlineExceeded, match=told_so):
            face.make_vec(SlowToMake, 2, env_start_timeout=0.5)
        face.make(SlowToMake, env_start_timeout=None).reset()
