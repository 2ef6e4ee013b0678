"""Whoever comes after a step or a reset that was given up on waits for its end, and not for ever."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import megaflow
from busy import stretched
from faces import AwaitedFace, BlockingFace, Face

LIMIT = 0.3
ACTIONS = np.zeros(2, dtype=np.int64)


class Held(gym.Env[Any, Any]):
    """Observes its steps; action 1, and a reset with `hold`, do not end until a file is there."""

    observation_space = gym.spaces.Box(-1, 1e6, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["ansi"]}
    render_mode = "ansi"
    favourite = 1
    steps = 0

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    def _hold(self) -> None:
        while not self.gate.exists():
            time.sleep(0.01)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        if options and options.get("hold"):
            self._hold()
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 1:
            self._hold()
        self.steps += 1
        return np.array([float(self.steps)]), 1.0, False, False, {}

    def render(self) -> Any:
        return "drawn"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture(params=[BlockingFace, AwaitedFace], ids=["blocking", "awaited"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    kind: type[Face] = request.param
    with kind(None) as made:
        yield made


def make(face: Face, gate: Path, **options: Any) -> Any:
    envs = face.make_vec(Held, 2, env_kwargs={"gate": str(gate)}, **options)
    envs.reset(seed=1)
    return envs


@contextmanager
def late(name: str, *indices: int) -> Iterator[None]:
    """What the block does raises DeadlineExceeded by that name, in time."""
    begun = time.monotonic()
    with pytest.raises(
        megaflow.DeadlineExceeded, match=rf"^{name}: .*{name}_timeout=0\.3 s"
    ) as caught:
        yield
    assert LIMIT <= time.monotonic() - begun < stretched(LIMIT + 1)
    assert caught.value.indices == indices


def test_a_step_that_found_no_room_is_not_taken(face: Face, gate: Path) -> None:
    env = face.make(Held, env_kwargs={"gate": str(gate)}, step_timeout=LIMIT)
    env.reset(seed=1)
    with pytest.raises(megaflow.DeadlineExceeded, match="may still be at it"):
        env.step(1)
    with pytest.raises(megaflow.DeadlineExceeded, match="this was not begun"):
        env.step(0)
    gate.touch()
    observation, *_ = env.step(0)
    assert observation.tolist() == [2.0]  # the first that was held, and this one


def others(envs: Any) -> list[Callable[[], Any]]:
    """The calls that have no limit of their own."""
    return [
        lambda: envs.call("steps"),
        lambda: envs.get_attr("favourite"),
        lambda: envs.set_attr("favourite", 2),
        lambda: envs.render(),
    ]


@pytest.mark.long
def test_what_has_no_limit_waits_for_a_step_as_long_as_that_may_take(
    face: Face, gate: Path
) -> None:
    envs = make(face, gate, step_timeout=LIMIT)
    with late("step", 1):
        envs.step(np.array([0, 1]))
    for call in others(envs):
        with late("step", 1):
            call()
    gate.touch()
    for call in others(envs):
        call()
    assert envs.step(ACTIONS)[0].ravel().tolist() == [2.0, 2.0]


def test_whoever_comes_waits_for_a_reset_as_long_as_that_may_take(face: Face, gate: Path) -> None:
    envs = make(face, gate, reset_timeout=LIMIT)
    with pytest.raises(megaflow.DeadlineExceeded, match=r"^reset: "):
        envs.reset(options={"hold": True})
    calls: list[Callable[[], Any]] = [
        *others(envs),
        lambda: envs.step(ACTIONS),
        lambda: envs.async_reset(),
        lambda: envs.send(ACTIONS, [0, 1]),
        lambda: envs.send(ACTIONS[:1], [0]),
    ]
    for call in calls:
        begun = time.monotonic()
        with pytest.raises(megaflow.DeadlineExceeded, match=r"^reset: .*reset_timeout=0\.3 s"):
            call()
        assert LIMIT <= time.monotonic() - begun < stretched(LIMIT + 1)
    gate.touch()
    envs.async_reset()
    assert envs.recv()[0].ravel().tolist() == [0.0, 0.0]
    assert envs.step(ACTIONS)[0].ravel().tolist() == [1.0, 1.0]


def test_a_reset_waits_for_a_step_as_long_as_it_takes(gate: Path) -> None:
    with BlockingFace(None) as face:
        envs = make(face, gate, step_timeout=LIMIT)
        with late("step", 1):
            envs.step(np.array([0, 1]))
        opened = threading.Timer(LIMIT + 1, gate.touch)
        opened.start()
        assert envs.reset()[0].ravel().tolist() == [0.0, 0.0]
        opened.join()


def test_truncate_gives_up_what_is_overdue(gate: Path) -> None:
    options: dict[str, Any] = {"step_timeout": LIMIT, "on_step_timeout": "truncate"}
    with BlockingFace(None) as face:
        following: list[Callable[[Any], Any]] = [
            lambda envs: envs.step(ACTIONS),
            lambda envs: envs.reset(),
        ]
        for then in following:
            envs = make(face, gate, **options)
            envs.step_async(np.array([0, 1]))
            with pytest.raises(multiprocessing.TimeoutError):
                envs.step_wait(timeout=0.01)
            result = then(envs)
            if len(result) == 5:
                *_, truncations, infos = result
                assert truncations[1]
                assert infos["step_timeout"][1]
                envs.reset()
            assert envs.step(ACTIONS)[0].ravel().tolist() == [1.0, 1.0]


def test_one_environment(face: Face, gate: Path) -> None:
    env = face.make(Held, env_kwargs={"gate": str(gate)}, step_timeout=LIMIT)
    env.reset(seed=1)
    with late("step"):
        env.step(1)
    calls: list[Callable[[], Any]] = [lambda: env.call("render"), lambda: env.render()]
    for call in calls:
        with late("step"):
            call()
    gate.touch()
    assert env.reset()[0].tolist() == [0.0]
