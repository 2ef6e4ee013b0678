"""`async_reset`, `send` and `recv`: what they give over all sub-environments is what `reset` and `step` give."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError
from gymnasium.vector import AutoresetMode

import megaflow
from autoreset_modes import id_and_mode
from faces import AwaitedFace, BlockingFace, Face
from sent import Sent
from zoo import KIND_IDS, VARIANT_IDS
from zoo.lockstep import vectors_in_lockstep
from zoo.makers import MakeVec

IDS = ["CartPole-v1", *KIND_IDS, "zoo/Infos-v0", "zoo/EveryStepInfos-v0", "zoo/Scalars-v0"]
INLINE = ("CartPole-v1", "zoo/Nested-v0", "zoo/Infos-v0")
NUM_ENVS = 4


@id_and_mode(IDS, VARIANT_IDS, 1)
def test_all_that_was_sent_is_what_a_step_gives(
    id: str, mode: AutoresetMode, server: str | None, remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    if server == "inline" and id not in INLINE:
        pytest.skip("covered on the embedded server")
    remote: Any = Sent(remote_vec(id, NUM_ENVS, autoreset_mode=mode))
    ended = vectors_in_lockstep(local_vec(id, NUM_ENVS, autoreset_mode=mode), remote, steps=50)
    assert ended > 0


@pytest.mark.parametrize("parallel", ["thread", "process"])
@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_side_by_side_it_is_the_same(
    mode: AutoresetMode, parallel: Any, local_vec: MakeVec
) -> None:
    envs = megaflow.make_vec("zoo/Infos-v0", NUM_ENVS, autoreset_mode=mode, parallel=parallel)
    remote: Any = Sent(envs)
    vectors_in_lockstep(local_vec("zoo/Infos-v0", NUM_ENVS, autoreset_mode=mode), remote, steps=80)
    envs.close()


class Counts(gym.Env[Any, Any]):
    """Observes how often it was stepped, and its action; waits for a file where the action asks for it."""

    observation_space = gym.spaces.Box(-1, 1e6, (2,), np.float64)
    action_space = gym.spaces.Discrete(100)

    def __init__(self, gate: str = "") -> None:
        self.gate = gate
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.array([0.0, -1.0]), {"options": (options or {}).get("say", 0)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 99:
            raise ValueError("as told")
        if action == 98:
            while not Path(self.gate).exists():
                pass
        self.steps += 1
        return np.array([float(self.steps), float(action)]), 1.0, False, False, {"own": action}


@pytest.fixture(params=[BlockingFace, AwaitedFace], ids=["blocking", "awaited"])
def face(request: pytest.FixtureRequest) -> Any:
    kind: type[Face] = request.param
    with kind(None) as made:
        yield made


def actions(*each: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(each, dtype=np.int64)


def raised(call: Callable[[], Any], kind: type[BaseException], *texts: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    for text in texts:
        assert text in str(caught.value)


def test_the_first_of_many_are_given_with_their_own_results(face: Face, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    envs = face.make_vec(Counts, 4, env_kwargs={"gate": str(gate)}, parallel="thread")
    envs.async_reset(seed=1, options={"say": 7})
    assert envs.recv()[4]["options"].tolist() == [7] * 4
    envs.send(actions(10, 98, 30, 40), [0, 1, 2, 3])
    seen: dict[int, Any] = {}
    while len(seen) < 3:
        observation, rewards, _, _, infos = envs.recv(1)
        assert len(observation) == len(rewards) == len(infos["env_id"])
        assert infos["own"].tolist() == observation[:, 1].tolist()
        assert infos["_own"].all()
        assert infos["env_id"].tolist() == sorted(infos["env_id"])
        seen |= dict(zip(infos["env_id"].tolist(), observation.tolist(), strict=True))
    assert seen == {0: [1, 10], 2: [1, 30], 3: [1, 40]}

    raised(lambda: envs.recv(1, timeout=0.05), multiprocessing.TimeoutError, "0.05 second")
    raised(lambda: envs.recv(1, timeout=0), multiprocessing.TimeoutError)
    raised(lambda: envs.recv(2), megaflow.InvalidArgument, "min_envs=2: 1 sub-env")
    raised(lambda: envs.send(actions(1, 2), [0, 1]), AlreadyPendingCallError, "`send`", "[1]")
    raised(lambda: envs.async_reset(), AlreadyPendingCallError, "`async_reset`", "[1]")
    for call in (
        lambda: envs.step(actions(0, 0, 0, 0)),
        lambda: envs.reset(),
        lambda: envs.call("steps"),
        lambda: envs.set_attr("x", 1),
    ):
        raised(call, AlreadyPendingCallError, "`recv` gives them")

    # Others go on meanwhile, several times, and are reset; what is ready stays for the next call.
    for step in (2, 3):
        envs.send(actions(50, 60), np.array([3, 0]))
        observation, *_, infos = envs.recv(2)
        assert infos["env_id"].tolist() == [0, 3]
        assert observation.tolist() == [[step, 60], [step, 50]]
    envs.async_reset(options={"reset_mask": np.array([True, False, False, True])})
    raised(lambda: envs.recv(3, timeout=0.2), multiprocessing.TimeoutError)
    observation, *_, infos = envs.recv(2)
    assert infos["env_id"].tolist() == [0, 3]
    assert observation.tolist() == [[0, -1], [0, -1]]

    gate.touch()
    observation, *_, infos = envs.recv()
    assert infos["env_id"].tolist() == [1]
    assert observation.tolist() == [[1, 98]]
    raised(lambda: envs.recv(), NoAsyncCallError, "`recv`")
    assert envs.step(actions(1, 2, 3, 4))[0].tolist() == [[1, 1], [2, 2], [2, 3], [1, 4]]
    assert envs.reset()[0].tolist() == [[0, -1]] * 4


def test_results_are_the_callers_own(face: Face) -> None:
    envs = face.make_vec(Counts, 2)
    envs.async_reset()
    envs.recv()[0][:] = 77
    envs.send(actions(1), [1])
    envs.recv()[0][:] = 88
    mask = np.array([True, False])
    observation, _ = envs.reset(options={"reset_mask": mask})
    assert observation.tolist() == [[0, -1], [1, 1]]


def test_an_environments_exception_is_raised_once_and_leaves_the_others(face: Face) -> None:
    envs = face.make_vec(Counts, 3)
    envs.async_reset()
    envs.recv()
    envs.send(actions(99, 5, 6), [2, 0, 1])
    with pytest.raises(ValueError, match="as told") as caught:
        envs.recv()
    assert caught.value.indices == (2,)  # type: ignore[attr-defined]
    assert caught.value.__notes__ == ["Sub-environment 2 raised this."]
    observation, *_, infos = envs.recv()
    assert infos["env_id"].tolist() == [0, 1]
    assert observation.tolist() == [[1, 5], [1, 6]]
    envs.send(actions(4), [2])
    assert envs.recv()[0].tolist() == [[1, 4]]


class Named(Counts):
    """Has infos of its own by the names of megaflow's."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return *super().step(action)[:4], {"env_id": 1, "lost": 2, "step_timeout": 3}


def test_an_info_of_the_name_env_id_gives_way(face: Face) -> None:
    envs = face.make_vec(Named, 2)
    envs.reset()
    envs.send(actions(1, 2), [0, 1])
    *_, infos = envs.recv()
    assert infos.keys() == {"env_id", "lost", "_lost", "step_timeout", "_step_timeout"}
    assert infos["env_id"].tolist() == [0, 1]


def test_infos_by_the_names_of_flags_give_way_where_there_are_flags(face: Face) -> None:
    for options, left in (
        ({"on_lost": "truncate"}, {"env_id", "step_timeout"}),
        ({"on_step_timeout": "truncate", "step_timeout": 60.0}, {"env_id"}),
    ):
        envs = face.make_vec(Named, 2, **options)
        envs.reset()
        *_, infos = envs.step(actions(1, 2))
        assert {name.removeprefix("_") for name in infos} == left


class Grows(Counts):
    """Observes something that has no array in a batch."""

    observation_space = gym.spaces.Dict(  # type: ignore[assignment]
        {"each": gym.spaces.Sequence(gym.spaces.Box(-1, 1e6, (1,), np.float64))}
    )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return {"each": (observation[:1],)}, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return {"each": (observation[:1],)}, *rest  # type: ignore[return-value]


def test_what_is_no_array_is_the_callers_own_as_well(face: Face) -> None:
    envs = face.make_vec(Grows, 2)
    mask = np.array([True, False])
    envs.reset()
    envs.send(actions(1), [1])
    envs.recv()[0]["each"][0][0][:] = 77
    for _ in range(2):
        observation, _ = envs.reset(options={"reset_mask": mask.copy()})
        assert observation["each"][1][0].tolist() == [1.0]
        observation["each"][1][0][:] = 88


def test_what_cannot_be_sent_is_refused_and_nothing_is(face: Face) -> None:
    envs = face.make_vec(Counts, 3)
    raised(lambda: envs.recv(), NoAsyncCallError)
    envs.async_reset()
    envs.recv()
    for env_id, text in (
        ([0, 3], "from 0 to 2"),
        ([-1, 1], "from 0 to 2"),
        ([1, 1], "once"),
        ([], "whole numbers"),
        ([[0, 1]], "whole numbers"),
        ([0.0, 1.0], "whole numbers"),
        ([True, False], "whole numbers"),
    ):
        raised(
            lambda env_id=env_id: envs.send(actions(1, 1), env_id),  # type: ignore[misc]
            megaflow.InvalidArgument,
            "env_id=",
            text,
        )
    for wrong in (actions(1), actions(1, 1, 1), [1], {"a": [1, 1]}, 0, None, object()):
        raised(
            lambda wrong=wrong: envs.send(wrong, [0, 1]),  # type: ignore[misc]
            megaflow.InvalidArgument,
            "actions=",
            "give a batch of 2 actions",
        )
    envs.send(actions(1), [0])
    for timeout in (-1, float("nan"), "x", True):
        raised(
            lambda timeout=timeout: envs.recv(timeout=timeout),  # type: ignore[misc]
            megaflow.InvalidArgument,
            f"timeout={timeout!r}: give seconds",
        )
    envs.recv(np.int64(1), timeout=float("inf"))
    for min_envs in (0, -1, 1.5, True):
        envs.send(actions(1), [0])
        raised(
            lambda least=min_envs: envs.recv(least),  # type: ignore[misc]
            megaflow.InvalidArgument,
            f"min_envs={min_envs}",
        )
        envs.recv()
    raised(
        lambda: envs.async_reset(options={"reset_mask": np.zeros(3, dtype=np.bool_)}),
        Exception,
        "at least one" if gym.__version__ >= "1.4" else "boolean array",
    )


def test_who_has_ended_is_not_sent_to_where_nothing_resets_it(face: Face) -> None:
    envs = face.make_vec("zoo/Infos-v0", 2, autoreset_mode="Disabled")
    envs.async_reset(seed=1)
    envs.recv()
    ended = False
    while not ended:
        envs.send(actions(0), [1])
        _, _, terminations, truncations, _ = envs.recv()
        ended = bool((terminations | truncations).any())
    with pytest.raises(AssertionError, match=r"\[1\] have ended"):
        envs.send(actions(0, 0), [0, 1])
    envs.async_reset(options={"reset_mask": np.array([False, True])})
    assert envs.recv()[4]["env_id"].tolist() == [1]
    envs.send(actions(0, 0), [0, 1])
    envs.recv()


def test_a_native_class_has_none_of_it(face: Face) -> None:
    envs = face.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    for name, given in (("async_reset", ()), ("send", (actions(1), [0])), ("recv", ())):
        raised(
            lambda name=name, given=given: getattr(envs, name)(*given),  # type: ignore[misc]
            megaflow.InvalidArgument,
            f"`{name}`",
            "vectorization_mode='sync'",
        )


def test_closing_with_something_outstanding(face: Face, tmp_path: Path) -> None:
    envs = face.make_vec(Counts, 2)
    envs.async_reset()
    envs.recv()
    envs.send(actions(1, 1), [0, 1])
    envs.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        envs.recv()
