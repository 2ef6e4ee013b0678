"""`megaflow bench vector`, as a command, and what it makes of its measurements."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from leftovers import place
from megaflow_server.bench.comparison import ASYNC, MEGAFLOW, SYNC, Comparison
from megaflow_server.bench.vector import Plan, measure

COMMAND = ("-m", "megaflow_server", "bench", "vector")


class Slow(gym.Env[np.int64, np.int64]):
    """A step takes 10 ms."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        return np.int64(0), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        time.sleep(0.01)
        return np.int64(0), 0.0, False, False, {}


@pytest.mark.long
def test_json_has_all_contenders_and_every_measurement() -> None:
    options = ["--num-envs", "1,3", "--seconds", "0.02", "--repeats", "3", "--json"]
    with place() as here:
        printed = here.run(*COMMAND, *options)
        here.assert_nothing_left()
    result = json.loads(printed)
    assert result["plan"]["env"] == "CartPole-v1"
    assert [one["case"] for one in result["comparisons"]] == ["1", "3"]
    for one in result["comparisons"]:
        speeds = one["per_second"]
        assert {name: len(values) for name, values in speeds.items()} == dict.fromkeys(
            (MEGAFLOW, SYNC, ASYNC), 3
        )
        assert all(value > 0 for values in speeds.values() for value in values)
        assert one["median"] == {name: statistics.median(values) for name, values in speeds.items()}
    assert set(result["machine"]["packages"]) >= {"gymnasium", "grpcio"}
    assert result["machine"]["cpu"]


def test_table_names_the_machine_and_the_server() -> None:
    options = ["--num-envs", "2", "--seconds", "0.02", "--repeats", "1", "--server", "inline"]
    with place() as here:
        printed = here.run(*COMMAND, *options)
    for text in ("CartPole-v1", "inline", MEGAFLOW, SYNC, ASYNC, "Python"):
        assert text in printed


def test_no_contender_is_faster_than_its_environments() -> None:
    gym.register("Slow-v0", entry_point=Slow)  # type: ignore[arg-type]
    try:
        plan = Plan("Slow-v0", [4], seconds=0.1, repeats=2, server="inline")
        (comparison,) = measure(plan, lambda _: None)
    finally:
        del gym.registry["Slow-v0"]
    one_by_one, at_once = 1 / 0.01, 4 / 0.01
    assert comparison.median(SYNC) <= one_by_one
    assert comparison.median(MEGAFLOW) <= one_by_one  # inline: in this thread
    assert comparison.median(ASYNC) <= at_once


def test_computing_is_done_by_every_contender() -> None:
    plan = Plan("CartPole-v1", [2], seconds=0.1, repeats=1, server="inline", compute_ms=5.0)
    (comparison,) = measure(plan, lambda _: None)
    for contender in (MEGAFLOW, SYNC, ASYNC):
        # Not much faster than one step in 5 ms on each of two cores: how fast a core counts varies.
        assert comparison.median(contender) < 2 * 2 / 0.005


def test_ratio_pairs_repeats_that_were_measured_together() -> None:
    comparison = Comparison("1", {MEGAFLOW: [10.0, 1.0, 4.0], SYNC: [20.0, 2.0, 2.0]})
    assert comparison.ratio(MEGAFLOW, SYNC) == 0.5
    assert comparison.median(MEGAFLOW) / comparison.median(SYNC) == 2.0


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--num-envs", "1,two"], 2, "1,two"),
        (["--num-envs", "0"], 2, "--num-envs"),
        (["--repeats", "0"], 2, "--repeats"),
        (["--seconds", "0"], 2, "--seconds"),
        (["--env", "CartPol-v1"], 2, "CartPole"),
        (["--server", "127.0.0.1:1"], 3, "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_measured(options: list[str], status: int, message: str) -> None:
    ended = subprocess.run(
        [sys.executable, *COMMAND, "--num-envs", "1", *options], capture_output=True, text=True
    )
    assert ended.returncode == status, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
