"""A worker is killed while a vector environment steps: what the user sees, in every autoreset mode."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

import megaflow

NUM_ENVS = 5
ACTIONS = np.zeros(NUM_ENVS, dtype=np.int64)


class Fragile(gym.Env[Any, Any]):
    """Observes its own random numbers; ends after ten steps; its process can be asked for."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)
    steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.random(2), {"fresh": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 2:
            raise ZeroDivisionError("as told")
        if action == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1
        return self.np_random.random(2), 1.0, self.steps == 10, False, {"steps": self.steps}

    def pid(self) -> int:
        return os.getpid()


class DiesInReset(Fragile):
    """Kills its process in a reset for as long as it finds a file to use up in a folder."""

    def __init__(self, deaths: str) -> None:
        self.deaths = Path(deaths)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        for death in self.deaths.iterdir():
            try:
                death.unlink()
            except FileNotFoundError:  # another one's
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(seed=seed, options=options)


def make(**options: Any) -> Any:
    return megaflow.make_vec(Fragile, num_envs=NUM_ENVS, **options)


def kill_some(envs: Any) -> list[int]:
    """Kills the worker of sub-environment 0; the indices that are lost with it, and not all are."""
    pids = envs.call("pid")
    os.kill(pids[0], signal.SIGKILL)
    lost = [index for index, pid in enumerate(pids) if pid == pids[0]]
    assert 0 < len(lost) < NUM_ENVS
    return lost


def rows(indices: list[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros(NUM_ENVS, dtype=np.bool_)
    mask[indices] = True
    return mask


def test_truncate_next_step() -> None:
    envs = make(on_lost="truncate", lost_reward=-1.0, autoreset_mode="NextStep")
    twin = make(autoreset_mode="NextStep", server="inline")
    envs.reset(seed=3)
    twin.reset(seed=3)
    last, *_ = envs.step(ACTIONS)
    twin.step(ACTIONS)
    lost = rows(kill_some(envs))

    observations, rewards, terminations, truncations, infos = envs.step(ACTIONS)
    unharmed = twin.step(ACTIONS)
    np.testing.assert_array_equal(observations[lost], last[lost])
    np.testing.assert_array_equal(observations[~lost], unharmed[0][~lost])
    assert rewards.tolist() == np.where(lost, -1.0, 1.0).tolist()
    assert not terminations.any()
    np.testing.assert_array_equal(truncations, lost)
    np.testing.assert_array_equal(infos["lost"], lost)
    np.testing.assert_array_equal(infos["_lost"], lost)

    observations, rewards, terminations, truncations, infos = envs.step(ACTIONS)
    assert rewards.tolist() == np.where(lost, 0.0, 1.0).tolist()
    assert not truncations.any()
    assert "lost" not in infos
    np.testing.assert_array_equal(infos["_fresh"], lost)
    assert not np.array_equal(observations[lost], last[lost])

    *_, infos = envs.step(ACTIONS)
    assert infos["steps"].tolist() == np.where(lost, 1, 4).tolist()
    envs.close()
    twin.close()


def test_truncate_same_step() -> None:
    envs = make(on_lost="truncate", autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=3)
    last, *_ = envs.step(ACTIONS)
    lost = rows(kill_some(envs))
    observations, rewards, _, truncations, infos = envs.step(ACTIONS)
    assert rewards.tolist() == np.where(lost, 0.0, 1.0).tolist()
    np.testing.assert_array_equal(truncations, lost)
    np.testing.assert_array_equal(infos["_lost"], lost)
    np.testing.assert_array_equal(infos["_final_obs"], lost)
    np.testing.assert_array_equal(infos["_final_info"], lost)
    for index in np.flatnonzero(lost):
        np.testing.assert_array_equal(infos["final_obs"][index], last[index])
    np.testing.assert_array_equal(infos["_fresh"], lost)
    assert not np.array_equal(observations[lost], last[lost])
    *_, infos = envs.step(ACTIONS)
    assert infos["steps"].tolist() == np.where(lost, 1, 3).tolist()
    envs.close()


def test_truncate_disabled() -> None:
    envs = make(on_lost="truncate", autoreset_mode="Disabled")
    envs.reset(seed=3)
    last, *_ = envs.step(ACTIONS)
    lost = kill_some(envs)
    observations, _, _, truncations, infos = envs.step(ACTIONS)
    np.testing.assert_array_equal(truncations, rows(lost))
    np.testing.assert_array_equal(infos["lost"], rows(lost))
    np.testing.assert_array_equal(observations[lost], last[lost])
    with pytest.raises(AssertionError):
        envs.step(ACTIONS)
    # One after the other: the first reset must not start the others' episodes.
    first, infos = envs.reset(options={"reset_mask": rows(lost[:1])})
    np.testing.assert_array_equal(infos["_fresh"], rows(lost[:1]))
    np.testing.assert_array_equal(first[lost[1:]], last[lost[1:]])
    with pytest.raises(AssertionError):
        envs.step(ACTIONS)
    envs.reset(options={"reset_mask": rows(lost[1:])})
    *_, infos = envs.step(ACTIONS)
    assert infos["steps"].tolist() == np.where(rows(lost), 1, 3).tolist()
    envs.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_raise_names_the_lost_and_leaves_the_others(mode: AutoresetMode) -> None:
    envs = make(autoreset_mode=mode)
    envs.reset(seed=3)
    envs.step(ACTIONS)
    lost = kill_some(envs)
    with pytest.raises(megaflow.SessionLost, match=r"worker-\d.*SIGKILL") as caught:
        envs.step(ACTIONS)
    assert list(caught.value.indices) == lost
    assert caught.value.infrastructure
    with pytest.raises(megaflow.SessionLost):
        envs.step(ACTIONS)
    with pytest.raises(megaflow.SessionLost):
        envs.call("pid")
    envs.reset(options={"reset_mask": rows(lost)})
    *_, infos = envs.step(ACTIONS)
    # The step in which the loss was seen did happen for the others.
    assert infos["steps"].tolist() == np.where(rows(lost), 1, 3).tolist()
    envs.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_rerun_with_the_same_losses_is_the_same_run(mode: AutoresetMode) -> None:
    def run() -> list[Any]:
        envs = make(on_lost="truncate", autoreset_mode=mode)
        data: list[Any] = [envs.reset(seed=11)]
        for step in range(6):
            if step in (1, 3):
                kill_some(envs)
            data.append(envs.step(ACTIONS))
            if mode == AutoresetMode.DISABLED and data[-1][3].any():
                data.append(envs.reset(options={"reset_mask": data[-1][3]}))
        envs.close()
        return data

    first, second = run(), run()
    assert data_equivalence(first, second, exact=True)


def test_two_losses_give_two_seeds() -> None:
    envs = make(on_lost="truncate", autoreset_mode="SameStep")
    envs.reset(seed=11)
    seen = []
    for _ in range(2):
        kill_some(envs)
        seen.append(envs.step(ACTIONS)[0][0].tolist())
    assert seen[0] != seen[1]
    envs.close()


def allow(folder: Path, deaths: int) -> None:
    for death in range(deaths):
        (folder / str(death)).touch()


def test_loss_during_reset_is_tried_once_more(tmp_path: Path) -> None:
    envs = megaflow.make_vec(DiesInReset, num_envs=2, env_kwargs={"deaths": str(tmp_path)})
    envs.reset(seed=1)
    allow(tmp_path, 1)
    envs.reset(seed=1)
    assert envs.step(ACTIONS[:2])[1].tolist() == [1.0, 1.0]
    envs.close()


def test_second_loss_during_reset_is_raised(tmp_path: Path) -> None:
    envs = megaflow.make_vec(DiesInReset, num_envs=2, env_kwargs={"deaths": str(tmp_path)})
    envs.reset(seed=1)
    allow(tmp_path, 4)  # both shards, twice each
    with pytest.raises(megaflow.SessionLost):
        envs.reset(seed=1)
    for left in tmp_path.iterdir():
        left.unlink()
    envs.reset(seed=1)
    envs.close()


NOTICING = {
    "a call": lambda envs, lost: envs.call("pid"),
    "an exception of another": lambda envs, lost: envs.step(
        np.where(
            rows(lost), 0, 2
        )  # the living ones raise in the step in which the others are found dead
    ),
}


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("noticing", list(NOTICING))
def test_loss_noticed_elsewhere_is_reported_by_the_next_step(
    mode: AutoresetMode, noticing: str
) -> None:
    envs = make(on_lost="truncate", autoreset_mode=mode)
    envs.reset(seed=3)
    last, *_ = envs.step(ACTIONS)
    lost = kill_some(envs)
    with pytest.raises((megaflow.SessionLost, ZeroDivisionError)):
        NOTICING[noticing](envs, lost)
    observations, _, _, truncations, infos = envs.step(ACTIONS)
    np.testing.assert_array_equal(truncations, rows(lost))
    np.testing.assert_array_equal(infos["lost"], rows(lost))
    final = np.stack(infos["final_obs"][lost]) if "final_obs" in infos else observations[lost]
    np.testing.assert_array_equal(final, last[lost])
    if mode == AutoresetMode.DISABLED:
        envs.reset(options={"reset_mask": rows(lost)})
    *_, truncations, infos = envs.step(ACTIONS)
    assert not truncations.any()
    assert "lost" not in infos
    envs.close()


def test_masked_reset_that_rebuilds_a_shard_tells_the_others_in_it() -> None:
    envs = make(on_lost="truncate", autoreset_mode="Disabled")
    envs.reset(seed=3)
    last, *_ = envs.step(ACTIONS)
    lost = kill_some(envs)
    assert len(lost) > 1
    envs.reset(options={"reset_mask": rows(lost[:1])})
    observations, _, _, truncations, infos = envs.step(ACTIONS)
    np.testing.assert_array_equal(truncations, rows(lost[1:]))
    np.testing.assert_array_equal(infos["lost"], rows(lost[1:]))
    np.testing.assert_array_equal(observations[lost[1:]], last[lost[1:]])
    assert infos["steps"][lost[0]] == 1
    envs.reset(options={"reset_mask": rows(lost[1:])})
    *_, infos = envs.step(ACTIONS)
    expected = np.full(NUM_ENVS, 3)
    expected[lost[0]], expected[lost[1:]] = 2, 1
    assert infos["steps"].tolist() == expected.tolist()
    envs.close()


@pytest.mark.parametrize(
    ("mode", "on_lost"), [("NextStep", "truncate"), ("SameStep", "truncate"), ("Disabled", "raise")]
)
def test_masked_reset_of_part_of_a_lost_shard_is_refused(mode: str, on_lost: str) -> None:
    envs = make(on_lost=on_lost, autoreset_mode=mode)
    envs.reset(seed=3)
    lost = kill_some(envs)
    with pytest.raises(megaflow.SessionLost, match="reset_mask must cover") as caught:
        envs.reset(options={"reset_mask": rows(lost[:1])})
    assert list(caught.value.indices) == lost[1:]
    envs.reset(options={"reset_mask": rows(lost)})
    *_, infos = envs.step(ACTIONS)
    assert infos["steps"].tolist() == [1] * NUM_ENVS
    envs.close()


class MadeOnce(Fragile):
    """Cannot be made while a file is there."""

    def __init__(self, obstacle: str) -> None:
        if obstacle and Path(obstacle).exists():
            raise ZeroDivisionError("not now")


def test_failure_to_make_a_shard_anew_steps_nobody(tmp_path: Path) -> None:
    obstacle = tmp_path / "obstacle"
    envs = megaflow.make_vec(
        MadeOnce, num_envs=NUM_ENVS, env_kwargs={"obstacle": str(obstacle)}, on_lost="truncate"
    )
    envs.reset(seed=3)
    lost = kill_some(envs)
    envs.step(ACTIONS)
    obstacle.touch()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            envs.step(ACTIONS)
    obstacle.unlink()
    *_, infos = envs.step(ACTIONS)
    np.testing.assert_array_equal(infos["_fresh"], rows(lost))
    *_, infos = envs.step(ACTIONS)
    assert infos["steps"].tolist() == np.where(rows(lost), 1, 3).tolist()
    envs.close()


def test_shard_made_anew_beside_one_that_cannot_be_is_reset_all_the_same(tmp_path: Path) -> None:
    obstacle = tmp_path / "obstacle"
    own = [{"obstacle": str(obstacle)} if i == NUM_ENVS - 1 else {"obstacle": ""} for i in range(5)]
    envs = megaflow.make_vec(MadeOnce, num_envs=NUM_ENVS, per_env_kwargs=own, on_lost="truncate")
    envs.reset(seed=3)
    for pid in set(envs.call("pid")):  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
    assert envs.step(ACTIONS)[3].all()
    obstacle.touch()
    with pytest.raises(ZeroDivisionError):
        envs.step(ACTIONS)
    obstacle.unlink()
    *_, infos = envs.step(ACTIONS)
    assert infos["_fresh"].all()
    *_, infos = envs.step(ACTIONS)
    assert infos["steps"].tolist() == [1] * NUM_ENVS
    envs.close()


def test_action_that_kills_is_not_repeated() -> None:
    """A step is applied at most once: what killed the worker is never sent to its successor."""
    envs = make(on_lost="truncate", autoreset_mode="SameStep")
    envs.reset(seed=1)
    deadly = ACTIONS.copy()
    deadly[0] = 1
    *_, truncations, infos = envs.step(deadly)
    assert truncations[0]
    assert infos["lost"][0]
    *_, truncations, infos = envs.step(ACTIONS)
    assert not truncations.any()
    envs.close()


def test_native_vector_class_is_lost_whole() -> None:
    envs = megaflow.make_vec(
        "CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point", on_lost="truncate"
    )
    first, _ = envs.reset(seed=1)
    others = make()
    pids = set(others.call("pid"))
    others.close()
    for pid in pids:  # whichever holds it
        os.kill(pid, signal.SIGKILL)
    observations, _, _, truncations, infos = envs.step(np.zeros(3, dtype=np.int64))
    np.testing.assert_array_equal(observations, first)
    assert truncations.all()
    assert infos["lost"].all()
    _, rewards, _, truncations, _ = envs.step(np.zeros(3, dtype=np.int64))
    assert not truncations.any()
    assert rewards.tolist() == [0.0] * 3
    _, rewards, *_ = envs.step(np.zeros(3, dtype=np.int64))
    assert rewards.tolist() == [1.0] * 3
    envs.close()


def test_single_environment_is_made_anew_by_reset() -> None:
    env = megaflow.make(Fragile)
    first, _ = env.reset(seed=4)
    with pytest.raises(megaflow.SessionLost, match="SIGKILL"):
        env.step(1)
    with pytest.raises(megaflow.SessionLost):
        env.step(0)
    again, _ = env.reset(seed=4)
    np.testing.assert_array_equal(first, again)
    assert env.step(0)[1] == 1.0
    env.close()


def test_death_while_being_made() -> None:
    class Doomed(Fragile):
        def __init__(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(megaflow.SessionLost, match="SIGKILL"):
        megaflow.make(Doomed)


def test_on_lost_is_checked() -> None:
    with pytest.raises(megaflow.InvalidArgument, match="on_lost='ignore'"):
        make(on_lost="ignore")
