"""`step_timeout` under each `on_step_timeout`: for one environment, for `step`, and for `recv`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import megaflow
from busy import stretched
from faces import AwaitedFace, BlockingFace, Face

NUM_ENVS = 4
LIMIT = 0.3
PARALLEL = ("none", "thread", "process")
ACTIONS = np.zeros(NUM_ENVS, dtype=np.int64)
# Sub-environment 1 is late; 0 shares its worker.
SLOW = np.array([0, 1, 0, 0])


class Held(gym.Env[Any, Any]):
    """Observes its steps; action 1 does not end until a file is there."""

    observation_space = gym.spaces.Box(-1, 1e6, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)
    steps = 0

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1), {"fresh": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        while action == 1 and not self.gate.exists():
            time.sleep(0.01)
        self.steps += 1
        return np.array([float(self.steps)]), 1.0, False, False, {}

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Opened at the end, so that no worker stays stuck."""
    path = tmp_path / "gate"
    yield path
    path.touch()


# The face that asks and the worker's way of stepping know nothing of each other, so not every pair is tried.
in_pairs = pytest.mark.parametrize(
    ("face", "parallel"),
    [*((BlockingFace, parallel) for parallel in PARALLEL), (AwaitedFace, "thread")],
    indirect=["face"],
    ids=[*PARALLEL, "thread-awaited"],
)


@pytest.fixture(params=[BlockingFace, AwaitedFace], ids=["blocking", "awaited"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    kind: type[Face] = request.param
    with kind(None) as made:
        yield made


def make(face: Face, gate: Path, policy: str, **options: Any) -> Any:
    options = {"step_timeout": LIMIT, "on_step_timeout": policy, **options}
    envs = face.make_vec(Held, NUM_ENVS, env_kwargs={"gate": str(gate)}, **options)
    envs.reset(seed=1)
    return envs


class Took:
    """How long a block took, which is to be no longer than a deadline and a second, and what it makes anew."""

    def __init__(self, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> None:
        # Under SAME_STEP the step itself makes anew what was lost.
        self._most = LIMIT + (10.0 if mode == AutoresetMode.SAME_STEP else 1.0)

    def __enter__(self) -> Took:
        self._begun = time.monotonic()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            took = time.monotonic() - self._begun
            assert LIMIT <= took < stretched(self._most)


@in_pairs
def test_raise_names_who_is_late(face: Face, gate: Path, parallel: str) -> None:
    envs = make(face, gate, "raise", parallel=parallel)
    with (
        Took(),
        pytest.raises(
            megaflow.DeadlineExceeded, match=r"^step: sub-environments \[1\] .*step_timeout=0\.3 s"
        ),
    ):
        envs.step(SLOW)
    # What follows waits for it, as long as it may itself.
    with pytest.raises(megaflow.DeadlineExceeded, match=r"^step: "):
        envs.step(ACTIONS)
    gate.touch()
    assert envs.reset()[0].ravel().tolist() == [0.0] * NUM_ENVS
    assert envs.step(ACTIONS)[0].ravel().tolist() == [1.0] * NUM_ENVS


@in_pairs
def test_raise_from_recv_leaves_it_outstanding(face: Face, gate: Path, parallel: str) -> None:
    envs = make(face, gate, "raise", parallel=parallel)
    with Took():
        envs.send(SLOW, np.arange(NUM_ENVS))
        with pytest.raises(megaflow.DeadlineExceeded, match=r"^step: sub-environments \[1\] "):
            envs.recv()
    seen = set(envs.recv(2)[4]["env_id"].tolist())
    assert 1 not in seen
    gate.touch()
    assert seen | set(envs.recv()[4]["env_id"].tolist()) == {0, 1, 2, 3}


@pytest.mark.long
def test_who_has_to_wait_for_its_turn_is_not_late(gate: Path) -> None:
    with BlockingFace(None) as face:
        envs = make(face, gate, "raise")
        envs.send(ACTIONS[:1] + 1, [1])
        with pytest.raises(megaflow.DeadlineExceeded, match=r"^step: sub-environments \[1\] "):
            envs.recv()
        # 0 shares its worker, and cannot begin.
        envs.send(ACTIONS[:1], [0])
        with pytest.raises(multiprocessing.TimeoutError):
            envs.recv(min_envs=1, timeout=2 * LIMIT + 1)
        gate.touch()
        seen: set[int] = set()
        while len(seen) < 2:
            seen |= set(envs.recv(min_envs=1)[4]["env_id"].tolist())
        # From there on its clock runs.
        gate.unlink()
        envs.send(SLOW[:2], [0, 1])
        with pytest.raises(megaflow.DeadlineExceeded) as caught:
            envs.recv()
        assert caught.value.indices == (1,)


@in_pairs
def test_wait_warns_once_for_each(face: Face, gate: Path, parallel: str) -> None:
    envs = make(face, gate, "wait", parallel=parallel)

    def open_gate(message: Any, *args: Any, **kwargs: Any) -> None:
        told.append(str(message))
        gate.touch()

    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "warn", open_gate)
        with Took():
            observation, _, _, truncations, infos = envs.step(SLOW)
        assert observation.ravel().tolist() == [1.0] * NUM_ENVS
        assert not truncations.any()
        assert "step_timeout" not in infos
        gate.unlink()
        envs.send(SLOW, np.arange(NUM_ENVS))
        with pytest.raises(multiprocessing.TimeoutError):
            envs.recv(timeout=2 * LIMIT)
        gate.touch()
        assert envs.recv(NUM_ENVS)[0].ravel().tolist() == [2.0] * NUM_ENVS
    assert len(told) == 1
    assert "[1]" in told[0]
    assert "step_timeout=0.3 s" in told[0]


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_truncate_begins_anew(gate: Path, mode: AutoresetMode, parallel: str) -> None:
    with BlockingFace(None) as face:
        options: dict[str, Any] = {"autoreset_mode": mode, "lost_reward": -2.0}
        envs = make(face, gate, "truncate", parallel=parallel, **options)
        # A thread cannot be ended: what shares the worker is lost with it.
        lost = np.array([parallel != "process", True, False, False])
        with Took(mode):
            observation, rewards, terminations, truncations, infos = envs.step(SLOW)
        assert truncations.tolist() == infos["lost"].tolist() == lost.tolist()
        assert infos["step_timeout"].tolist() == [False, True, False, False]
        assert infos["_step_timeout"].tolist() == [False, True, False, False]
        assert rewards.tolist() == np.where(lost, -2.0, 1.0).tolist()
        assert not terminations.any()
        assert observation.ravel().tolist() == np.where(lost, 0.0, 1.0).tolist()
        if mode == AutoresetMode.DISABLED:
            envs.reset(options={"reset_mask": lost.copy()})
        elif mode == AutoresetMode.NEXT_STEP:
            *_, infos = envs.step(ACTIONS)
            assert infos["_fresh"].tolist() == lost.tolist()
        else:
            assert infos["_fresh"].tolist() == lost.tolist()
        observation, _, _, truncations, infos = envs.step(ACTIONS)
        assert set(observation[lost].ravel()) == {1.0}
        assert not truncations.any()
        assert "step_timeout" not in infos


@in_pairs
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_truncate_from_recv(face: Face, gate: Path, mode: AutoresetMode, parallel: str) -> None:
    envs = make(face, gate, "truncate", parallel=parallel, autoreset_mode=mode)
    lost = [1] if parallel == "process" else [0, 1]
    with Took(mode):
        envs.send(SLOW, np.arange(NUM_ENVS))
        _, _, _, truncations, infos = envs.recv()
    assert infos["env_id"].tolist() == [0, 1, 2, 3]
    # What had ended before came in time where it steps by itself.
    told = [0, 1] if truncations[0] else [1]
    assert np.flatnonzero(truncations).tolist() == np.flatnonzero(infos["lost"]).tolist() == told
    assert np.flatnonzero(infos["step_timeout"]).tolist() == [1]
    assert 1 in lost
    for _ in range(3):
        envs.send(ACTIONS, np.arange(NUM_ENVS))
        _, _, _, truncations, infos = envs.recv()
        assert "step_timeout" not in infos
    assert not truncations.any()


@pytest.mark.parametrize("policy", ["raise", "truncate"])
def test_a_worker_that_says_nothing_is_late_all_the_same(gate: Path, policy: str) -> None:
    with BlockingFace(None) as face:
        envs = make(face, gate, policy, parallel="thread")
        pids = envs.call("pid")
        os.kill(pids[0], signal.SIGSTOP)
        try:
            with Took():
                if policy == "raise":
                    with pytest.raises(megaflow.DeadlineExceeded, match=r"^step: .*\[0, 1\]"):
                        envs.step(ACTIONS)
                else:
                    *_, truncations, infos = envs.step(ACTIONS)
                    assert truncations.tolist() == [True, True, False, False]
                    assert infos["step_timeout"].tolist() == [True, True, False, False]
        finally:
            os.kill(pids[0], signal.SIGCONT)


def test_one_environment_that_raises_or_waits(face: Face, gate: Path) -> None:
    options: dict[str, Any] = {"step_timeout": LIMIT, "env_kwargs": {"gate": str(gate)}}
    env = face.make(Held, **options)
    env.reset()
    with Took(), pytest.raises(megaflow.DeadlineExceeded, match=r"^step: .*step_timeout=0\.3 s"):
        env.step(1)
    gate.touch()
    assert env.step(0)[0].tolist() == [2.0]
    gate.unlink()
    patient = face.make(Held, on_step_timeout="wait", **options)
    patient.reset()
    told: list[str] = []

    def open_gate(message: Any, *args: Any, **kwargs: Any) -> None:
        told.append(str(message))
        gate.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "warn", open_gate)
        with Took():
            assert patient.step(1)[:4] == ([1.0], 1.0, False, False)
    assert len(told) == 1


def test_one_environment_that_is_truncated_is_made_anew_by_reset(face: Face, gate: Path) -> None:
    options: dict[str, Any] = {"step_timeout": LIMIT, "env_kwargs": {"gate": str(gate)}}
    env = face.make(Held, on_step_timeout="truncate", **options)
    env.reset(seed=1)
    env.step(0)
    with Took():
        observation, reward, terminated, truncated, info = env.step(1)
    assert observation.tolist() == [1.0]
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info == {"lost": True, "step_timeout": True}
    with pytest.raises(megaflow.SessionLost, match="reset the environment"):
        env.step(0)
    observation, info = env.reset(seed=1)
    assert observation.tolist() == [0.0]
    assert info == {"fresh": True}
    assert env.step(0)[0].tolist() == [1.0]
