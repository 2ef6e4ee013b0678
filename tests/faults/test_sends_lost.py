"""Losses while sub-environments are at it between `send` and `recv`: of a worker, and of one's own process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import megaflow

NUM_ENVS = 4


class Mortal(gym.Env[Any, Any]):
    """Observes its steps and its own random number; action 1 kills its process, 2 waits for a file."""

    observation_space = gym.spaces.Box(-1, 1e6, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)
    steps = 0

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.array([0.0, self.np_random.random()]), {"fresh": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while action == 2 and not self.gate.exists():
            time.sleep(0.005)
        self.steps += 1
        return np.array([self.steps, self.np_random.random()]), 1.0, False, False, {"n": self.steps}

    def pid(self) -> int:
        return os.getpid()


@contextmanager
def made(gate: Path, **options: Any) -> Iterator[Any]:
    envs = megaflow.make_vec(Mortal, NUM_ENVS, env_kwargs={"gate": str(gate)}, **options)
    try:
        yield envs
    finally:
        gate.touch()  # so that no worker stays stuck
        envs.close()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def actions(*each: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(each, dtype=np.int64)


def with_worker(envs: Any, index: int) -> list[int]:
    """The sub-environments that share a worker with this one, itself included."""
    pids = envs.call("pid")
    return [one for one, pid in enumerate(pids) if pid == pids[index]]


def own_of(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """The infos of one row of a batch, but for `final_info`, which is batched by itself."""
    return {
        key: value[row]
        for key, value in infos.items()
        if isinstance(value, np.ndarray) and f"_{key}" in infos and infos[f"_{key}"][row]
    }


def received(envs: Any, count: int) -> dict[int, tuple[list[float], float, bool, dict[str, Any]]]:
    """What so many sub-environments gave, by index: observation, reward, truncated and own infos."""
    seen: dict[int, Any] = {}
    while len(seen) < count:
        observation, rewards, terminations, truncations, infos = envs.recv(1, timeout=20)
        assert not terminations.any()
        for row, index in enumerate(infos["env_id"].tolist()):
            own = own_of(infos, row)
            assert index not in seen
            seen[index] = observation[row].tolist(), rewards[row], bool(truncations[row]), own
    return seen


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_worker_that_dies_is_told_of_as_truncated(gate: Path, mode: AutoresetMode) -> None:
    with made(gate, on_lost="truncate", lost_reward=-1.0, autoreset_mode=mode) as envs:
        lost = with_worker(envs, 0)
        others = [index for index in range(NUM_ENVS) if index not in lost]
        assert len(lost) == len(others) == 2
        envs.async_reset(seed=3)
        first = envs.recv()[0].tolist()
        # One is at it, and the other is not, when their worker dies.
        envs.send(actions(1, 0, 0), [lost[0], *others])
        seen = received(envs, 3)
        observation, reward, truncated, own = seen.pop(lost[0])
        assert (reward, truncated, own["lost"]) == (-1.0, True, True)
        check_loss(mode, observation, own, first[lost[0]])
        assert all(not one[2] and one[3] == {"n": 1} for one in seen.values())

        # Who was idle is told by its next result; its action is not taken.
        envs.send(actions(1), [lost[1]])
        observation, reward, truncated, own = received(envs, 1)[lost[1]]
        assert (reward, truncated, own["lost"]) == (-1.0, True, True)
        check_loss(mode, observation, own, first[lost[1]])
        go_on(envs, mode, lost)
        assert all(one[3] == {"n": 1} for one in received_steps(envs, lost).values())
        *_, infos = envs.step(np.zeros(NUM_ENVS, dtype=np.int64))
        assert infos["n"].tolist() == [2] * NUM_ENVS


def check_loss(mode: AutoresetMode, observation: Any, own: dict[str, Any], last: Any) -> None:
    if mode == AutoresetMode.SAME_STEP:
        assert own["final_obs"].tolist() == last
        assert own["fresh"]
        assert observation[0] == 0.0
        assert observation != last  # another seed
    else:
        assert observation == last
        assert "fresh" not in own


def begin_anew(envs: Any, mode: AutoresetMode, index: int) -> None:
    """Asks for what a lost sub-environment begins anew with under this mode."""
    if mode == AutoresetMode.NEXT_STEP:
        envs.send(actions(1), [index])  # the action is ignored
        return
    with pytest.raises(AssertionError, match="have ended"):
        envs.send(actions(0), [index])
    mask = np.zeros(NUM_ENVS, dtype=np.bool_)
    mask[index] = True
    envs.async_reset(options={"reset_mask": mask})


def go_on(envs: Any, mode: AutoresetMode, lost: list[int]) -> None:
    """Has lost sub-environments begin anew, one after the other; under SAME_STEP they have."""
    if mode == AutoresetMode.SAME_STEP:
        return
    for index in lost:
        begin_anew(envs, mode, index)
        observation, reward, truncated, own = received(envs, 1)[index]
        assert (observation[0], reward, truncated) == (0.0, 0.0, False)
        assert own == {"fresh": True}


def received_steps(envs: Any, indices: list[int]) -> dict[int, Any]:
    envs.send(np.zeros(len(indices), dtype=np.int64), indices)
    return received(envs, len(indices))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_worker_that_dies_is_raised_and_the_others_are_received(
    gate: Path, mode: AutoresetMode
) -> None:
    with made(gate, autoreset_mode=mode) as envs:
        lost = with_worker(envs, 0)
        others = [index for index in range(NUM_ENVS) if index not in lost]
        envs.async_reset(seed=3)
        envs.recv()
        envs.send(actions(1, 0, 2, 0), [lost[0], others[0], others[1], lost[1]])
        with pytest.raises(megaflow.SessionLost, match="SIGKILL") as caught:
            received(envs, 4)
        assert set(caught.value.indices) <= set(lost)
        gate.touch()
        *_, infos = envs.recv()
        assert set(infos["env_id"].tolist()) >= {others[1]}
        with pytest.raises(megaflow.SessionLost, match="reset them") as caught:
            envs.send(actions(0, 0), [lost[1], others[0]])
        assert list(caught.value.indices) == [lost[1]]
        with pytest.raises(megaflow.SessionLost):
            envs.step(np.zeros(NUM_ENVS, dtype=np.int64))
        mask = np.isin(np.arange(NUM_ENVS), lost)
        envs.async_reset(options={"reset_mask": mask})
        seen = received(envs, 2)
        assert sorted(seen) == lost
        assert all(one[3] == {"fresh": True} for one in seen.values())
        *_, infos = envs.step(np.zeros(NUM_ENVS, dtype=np.int64))
        assert infos["n"][lost].tolist() == [1, 1]
        assert infos["n"][others].tolist() == [2, 2]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_one_process_that_dies_is_lost_alone(gate: Path, mode: AutoresetMode) -> None:
    options: dict[str, Any] = {"on_lost": "truncate", "autoreset_mode": mode}
    with made(gate, parallel="process", **options) as envs:
        assert len(set(envs.call("pid"))) == NUM_ENVS
        envs.async_reset(seed=3)
        first = envs.recv()[0].tolist()
        envs.send(actions(2, 1, 0, 0), [0, 1, 2, 3])
        seen = received(envs, 3)
        gate.touch()
        seen |= received(envs, 1)
        gate.unlink()
        observation, _, truncated, own = seen.pop(1)
        assert truncated
        assert own["lost"]
        check_loss(mode, observation, own, first[1])
        assert all(one[3] == {"n": 1} for one in seen.values())
        # It is made anew while the others, of its own worker too, are at it.
        envs.send(actions(2, 2, 2), [0, 2, 3])
        if mode != AutoresetMode.SAME_STEP:
            begin_anew(envs, mode, 1)
            assert received(envs, 1)[1][3] == {"fresh": True}
        gate.touch()
        seen = received(envs, 3)
        assert seen.keys() == {0, 2, 3}
        assert all(one[3] == {"n": 2} for one in seen.values())
        *_, infos = envs.step(np.zeros(NUM_ENVS, dtype=np.int64))
        assert infos["n"].tolist() == [3, 1, 3, 3]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("on_lost", ["raise", "truncate"])
def test_one_process_that_dies_in_a_step(gate: Path, on_lost: Any, mode: AutoresetMode) -> None:
    with made(gate, parallel="process", on_lost=on_lost, autoreset_mode=mode) as envs:
        first = envs.reset(seed=3)[0].tolist()
        lost = np.array([False, True, False, False])
        if on_lost == "raise":
            with pytest.raises(megaflow.SessionLost) as caught:
                envs.step(actions(0, 1, 0, 0))
            assert caught.value.indices == (1,)
            with pytest.raises(megaflow.SessionLost):
                envs.step(actions(0, 0, 0, 0))
            _, infos = envs.reset(options={"reset_mask": lost.copy()})
            assert infos["_fresh"].tolist() == lost.tolist()
        else:
            observation, _, _, truncations, infos = envs.step(actions(0, 1, 0, 0))
            assert truncations.tolist() == infos["lost"].tolist() == lost.tolist()
            own = own_of(infos, 1)
            check_loss(mode, observation[1].tolist(), own, first[1])
            if mode == AutoresetMode.NEXT_STEP:
                *_, infos = envs.step(actions(0, 0, 0, 0))
                assert infos["_fresh"].tolist() == lost.tolist()
                assert infos["n"].tolist() == [2, 0, 2, 2]
            elif mode == AutoresetMode.DISABLED:
                envs.reset(options={"reset_mask": lost.copy()})
        *_, infos = envs.step(actions(0, 0, 0, 0))
        assert infos["n"][1] == 1
        assert len(set(infos["n"][~lost])) == 1
        assert "lost" not in infos


@pytest.mark.long
def test_a_rerun_with_the_same_losses_is_the_same_run(gate: Path) -> None:
    def run() -> list[Any]:
        with made(gate, parallel="process", on_lost="truncate") as envs:
            envs.reset(seed=11)
            log = []
            for action in (0, 1, 0, 0, 1, 0, 0):
                observation, _, _, truncations, _ = envs.step(actions(action, 0, 0, action))
                log.append((observation.tolist(), truncations.tolist()))
            return log

    assert run() == run()
