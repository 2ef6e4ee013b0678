"""The deadlines' options: what they take, where they stand, and how their errors read."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import megaflow
import zoo  # noqa: F401  # registers its environments
from megaflow.deadlines import (
    ENV_START_TIMEOUT,
    Deadlines,
    OnStepTimeout,
    StepLimit,
    env_start_exceeded,
)
from megaflow.overdue import Overdue
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.machine import Verb

OPTIONS = ("env_start_timeout", "reset_timeout", "step_timeout")


def test_defaults_end_what_never_starts_and_nothing_else() -> None:
    assert Deadlines() == Deadlines.checked(ENV_START_TIMEOUT, None, None)
    assert Deadlines().as_kwargs() == {}
    assert Deadlines().begin("reset") is Deadlines().begin("step") is None


def test_a_deadline_runs_from_its_beginning() -> None:
    deadline = Deadlines.checked(None, None, 2).begin("step", lambda: 100.0)
    assert deadline is not None
    assert deadline.end == 102.0
    for text in ("step: ", "step_timeout=2 s", "None: no limit"):
        assert text in deadline.exceeded().message
    assert "env_start_timeout=1.5 s" in env_start_exceeded(1.5).message


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("value", [0, -1, True, "5", float("inf"), float("nan")], ids=repr)
def test_what_is_no_time_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(
        megaflow.InvalidArgument, match=f"^{option}={value!r}: give seconds above 0"
    ):
        megaflow.make("CartPole-v1", **{option: value})
    with pytest.raises(
        megaflow.InvalidArgument, match=f"^{option}={value!r}: give seconds above 0"
    ):
        megaflow.make_vec("CartPole-v1", 2, **{option: value})


@pytest.mark.parametrize("option", OPTIONS)
def test_inline_takes_no_deadline_that_it_could_not_keep(option: str) -> None:
    given: dict[str, Any] = {option: 5}
    with pytest.raises(megaflow.InvalidArgument, match=rf"^{option}=5\.0: nothing can end"):
        megaflow.make("CartPole-v1", server="inline", **given)
    with pytest.raises(megaflow.InvalidArgument, match=rf"^{option}=5\.0: nothing can end"):
        megaflow.make_vec("CartPole-v1", 2, server="inline", **given)


def test_specs_carry_deadlines_through_gymnasiums_door(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    options: dict[str, Any] = {"env_id": "zoo/Gated-v0", "env_kwargs": {"gate": gate}}
    env = gym.make("megaflow/Remote-v0", step_timeout=0.2, **options)
    envs = gym.make_vec("megaflow/Remote-v0", 2, step_timeout=0.2, **options)
    again = gym.make(env.spec) if env.spec is not None else env
    assert envs.spec is not None
    vector_again = gym.make_vec(envs.spec)
    for one in (env, again):
        one.reset()
        with pytest.raises(megaflow.DeadlineExceeded, match=r"^step: "):
            one.step(0)
    for several in (envs, vector_again):
        several.reset()
        with pytest.raises(megaflow.DeadlineExceeded, match=r"^step: "):
            several.step(np.zeros(2, dtype=np.int64))
    Path(gate).touch()
    for made in (env, again, envs, vector_again):
        made.close()


@pytest.mark.long
def test_closing_after_a_deadline_does_not_wait_for_ever(tmp_path: Path) -> None:
    options: dict[str, Any] = {"step_timeout": 0.1, "env_kwargs": {"gate": str(tmp_path / "gate")}}
    env = megaflow.make("zoo/Gated-v0", **options)
    envs = megaflow.make_vec("zoo/Gated-v0", 2, **options)
    env.reset()
    envs.reset()
    with pytest.raises(megaflow.DeadlineExceeded):
        env.step(0)
    with pytest.raises(megaflow.DeadlineExceeded):
        envs.step(np.zeros(2, dtype=np.int64))
    begin = time.monotonic()
    with ThreadPoolExecutor() as both:
        list(both.map(lambda made: made.close(), (env, envs)))
    assert time.monotonic() - begin < 10
    (tmp_path / "gate").touch()


def test_a_wait_may_be_shorter_than_the_deadline(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    envs: Any = megaflow.make_vec(
        "zoo/Gated-v0", 2, step_timeout=30, env_kwargs={"gate": str(gate)}
    )
    envs.reset()
    envs.step_async(np.zeros(2, dtype=np.int64))
    with pytest.raises(
        multiprocessing.TimeoutError, match=r"`step_wait` has timed out after 0\.1 second"
    ):
        envs.step_wait(timeout=0.1)
    gate.touch()
    envs.reset()
    envs.close()


@pytest.mark.parametrize(
    "make", [megaflow.make, lambda id, **given: megaflow.make_vec(id, 2, **given)]
)
def test_what_is_done_about_a_late_step_is_checked(make: Any) -> None:
    with pytest.raises(
        megaflow.InvalidArgument, match=r"^on_step_timeout='ignore': give one of 'raise', 'wait'"
    ):
        make("CartPole-v1", step_timeout=1, on_step_timeout="ignore")
    with pytest.raises(
        megaflow.InvalidArgument, match=r"^on_step_timeout='wait': .* without step_timeout"
    ):
        make("CartPole-v1", on_step_timeout="wait")


def test_specs_carry_what_is_done_about_a_late_step(tmp_path: Path) -> None:
    options: dict[str, Any] = {"step_timeout": 0.2, "on_step_timeout": "truncate"}
    options |= {"env_id": "zoo/Gated-v0", "env_kwargs": {"gate": str(tmp_path / "gate")}}
    env = gym.make("megaflow/Remote-v0", **options)
    envs = gym.make_vec("megaflow/Remote-v0", 2, parallel="thread", **options)
    assert env.spec is not None
    assert envs.spec is not None
    assert envs.spec.kwargs["parallel"] == "thread"
    again, vector_again = gym.make(env.spec), gym.make_vec(envs.spec)
    for one in (env, again):
        one.reset()
        assert one.step(0)[3]
    for several in (envs, vector_again):
        several.reset()
        assert several.step(np.zeros(2, dtype=np.int64))[3].all()
    (tmp_path / "gate").touch()
    for made in (env, again, envs, vector_again):
        made.close()


def test_who_may_step_side_by_side_is_checked() -> None:
    with pytest.raises(megaflow.InvalidArgument, match=r"^parallel='gpu': give 'none' or"):
        megaflow.make_vec("CartPole-v1", 2, parallel="gpu")  # type: ignore[arg-type]
    native: dict[str, Any] = {"vectorization_mode": "vector_entry_point", "parallel": "thread"}
    with pytest.raises(
        megaflow.InvalidArgument, match=r"^parallel='thread': a native vector class"
    ):
        megaflow.make_vec("CartPole-v1", 2, **native)
    with pytest.raises(megaflow.InvalidArgument, match=r"^parallel='process': in the calling"):
        megaflow.make_vec("CartPole-v1", 2, parallel="process", server="inline")
    megaflow.make_vec("CartPole-v1", 2, parallel="none", server="inline").close()


def test_a_limit_bounds_what_is_not_heard_of() -> None:
    in_turn = StepLimit(2.0, "raise", together=False, apart=False)
    assert in_turn.bound(3, lambda: 100.0) == 106.5
    assert StepLimit(2.0, "wait", together=True, apart=False).bound(3, lambda: 100.0) == 102.5
    assert StepLimit(None, "raise", together=False, apart=False).bound(3) is None
    for apart, policy, ends in (
        (True, "truncate", True),
        (True, "raise", False),
        (False, "truncate", False),
    ):
        step = pb.Step()
        given: Any = policy
        StepLimit(2.0, given, together=True, apart=apart).put(step)
        assert (step.timeout_s, step.end_late) == (2.0, ends)


def test_how_long_who_comes_next_waits_for_what_is_overdue() -> None:
    deadlines = Deadlines(reset=3.0, step=2.0)
    step, reset, call = pb.Step(), pb.Reset(), pb.Call()

    def patience(overdue: Verb, verb: Verb, policy: OnStepTimeout = "raise") -> str | None:
        limit = StepLimit(2.0, policy, together=False, apart=False)
        deadline = Overdue(1, overdue).patience(verb, deadlines, limit, 4)
        return None if deadline is None else deadline.name

    assert [patience(reset, verb) for verb in (step, reset, call)] == ["reset"] * 3
    assert [patience(step, verb) for verb in (step, reset, call)] == ["step", None, "step"]
    assert [patience(step, verb, "truncate") for verb in (step, reset, call)] == ["step"] * 3
    assert [patience(step, verb, "wait") for verb in (step, reset, call)] == [None] * 3
    assert [patience(call, verb) for verb in (step, reset, call)] == [None] * 3
    in_turn = StepLimit(2.0, "wait", together=False, apart=False).patience(4, lambda: 100.0)
    assert in_turn is not None
    assert in_turn.end == 108.5
