"""reset_async, step_async, call_async and their waits, with timeouts, as `AsyncVectorEnv` has them."""

from __future__ import annotations

import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo.lockstep import assert_same
from zoo.makers import MakeVec
from zoo.outcomes import outcome, raised

ACTIONS = np.array([1, 2])


def test_split_calls_give_what_whole_ones_give(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    whole: Any = local_vec("zoo/Infos-v0", 2)
    split: Any = remote_vec("zoo/Infos-v0", 2)
    split.reset_async(seed=[4, 9], options={"a": 1})
    assert_same(whole.reset(seed=[4, 9], options={"a": 1}), split.reset_wait(), "reset")
    for step in range(100):
        assert split.step_async(ACTIONS) is None
        assert_same(whole.step(ACTIONS), split.step_wait(), f"step {step}")
    split.call_async("np_random_seed")
    assert split.call_wait() == whole.np_random_seed
    split.reset_async()
    assert_same(whole.reset(), split.reset_wait(timeout=30), "reset without a seed")


def test_masked_split_reset(remote_vec: MakeVec) -> None:
    envs: Any = remote_vec("zoo/Counter-v0", 2, autoreset_mode="Disabled")
    envs.reset(seed=1)
    envs.step(ACTIONS)
    options = {"reset_mask": np.array([False, True])}
    envs.reset_async(options=options)
    assert options == {}
    assert envs.reset_wait()[0][:, 1].tolist() == [1.0, 0.0]


def test_a_wait_with_time_enough_does_not_time_out(remote_vec: MakeVec) -> None:
    envs: Any = remote_vec("zoo/Counter-v0", 2)
    envs.reset_async(seed=1)
    envs.reset_wait(timeout=60)
    envs.step_async(ACTIONS)
    assert envs.step_wait(timeout=60)[1].tolist() == [1.0, 2.0]
    envs.call_async("render_mode")
    assert envs.call_wait(timeout=60.0) == (None, None)


@pytest.fixture
def gate(server: str | None, tmp_path: Path) -> Path:
    """A file that gated environments wait for."""
    if server == "inline":
        pytest.skip("in this process nothing runs while the caller waits")
    return tmp_path / "gate"


def _start(envs: Any, verb: str) -> Any:
    if verb == "reset":
        envs.reset_async(seed=1, options={"wait": True})
    elif verb == "step":
        envs.step_async(ACTIONS)
    else:
        envs.call_async("hold")
    return getattr(envs, f"{verb}_wait")


@pytest.mark.parametrize("verb", ["reset", "step", "call"])
@pytest.mark.parametrize("timeout", [0, 0.05], ids=str)
def test_a_wait_that_times_out(
    verb: str, timeout: float, gate: Path, remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    logs: list[Any] = []
    for make in (local_vec, remote_vec):
        options = {"vectorization_mode": "async"} if make is local_vec else {}
        envs: Any = make("zoo/Gated-v0", 2, gate=str(gate), **options)
        envs.reset(seed=1)
        wait = _start(envs, verb)
        log = [raised(wait, timeout=timeout)]
        log += [raised(again) for again in (envs.reset_wait, envs.step_wait, envs.call_wait)]
        logs.append(log)
    gate.touch()
    assert logs[0] == logs[1]
    assert logs[1][0] is not None
    assert logs[1][0][0] is multiprocessing.TimeoutError


@pytest.mark.parametrize("verb", ["reset", "step", "call"])
def test_after_a_timeout_the_late_answer_is_nobodys(
    verb: str, gate: Path, remote_vec: MakeVec
) -> None:
    envs: Any = remote_vec("zoo/Gated-v0", 2, env_kwargs={"gate": str(gate)})
    envs.reset(seed=1)
    wait = _start(envs, verb)
    with pytest.raises(multiprocessing.TimeoutError):
        wait(timeout=0.05)
    gate.touch()
    observation, info = envs.reset(seed=2)
    assert observation[:, 1].tolist() == [0.0, 0.0]
    assert "note" in info
    assert envs.step(ACTIONS)[0][:, 1].tolist() == [1.0, 1.0]
    assert envs.call("hold") == ("open", "open")


def test_closing_during_a_pending_call(gate: Path, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    logs: list[Any] = []
    for make in (local_vec, remote_vec):
        options = {"vectorization_mode": "async"} if make is local_vec else {}
        envs: Any = make("zoo/Gated-v0", 2, gate=str(gate), **options)
        envs.reset(seed=1)
        envs.step_async(ACTIONS)
        logs.append(outcome(envs.close, timeout=0.05))
        assert envs.closed is True
    gate.touch()
    assert_same(logs[0], logs[1], "close")
    assert "Calling `close` while waiting for a pending call to `step`" in logs[1][2][0]


def test_closing_waits_for_a_pending_call_that_ends(remote_vec: MakeVec) -> None:
    envs: Any = remote_vec("zoo/Counter-v0", 2)
    envs.reset(seed=1)
    envs.step_async(ACTIONS)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        envs.close()
    assert envs.closed is True
