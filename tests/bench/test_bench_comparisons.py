"""`megaflow bench native`, `pixels`, `straggler` and `latency`, as commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from leftovers import place
from megaflow_server.bench.comparison import in_turns
from megaflow_server.bench.echoes import echo
from megaflow_server.bench.environments import Pixels, Sleeper
from megaflow_server.bench.latency import frames
from megaflow_server.bench.latency_report import idle_line

SHORT = ("--seconds", "0.05", "--repeats", "2")


def printed(*options: str) -> dict[str, Any]:
    with place() as here:
        text = here.run("-m", "megaflow_server", "bench", *options, *SHORT, "--json")
        here.assert_nothing_left()
    result: dict[str, Any] = json.loads(text)
    assert result["benchmark"] == options[0]
    assert result["machine"]["cpu"]
    return result


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "contenders"),
    [
        (("native", "--num-envs", "8,16"), {"megaflow", "local"}),
        (("pixels", "--num-envs", "3,4"), {"megaflow", "SyncVectorEnv", "AsyncVectorEnv"}),
    ],
)
def test_every_contender_is_measured_at_every_size(
    options: tuple[str, ...], contenders: set[str]
) -> None:
    comparisons = printed(*options)["comparisons"]
    assert len(comparisons) == 2
    for one in comparisons:
        assert one["per_second"].keys() == contenders
        assert all(len(values) == 2 and min(values) > 0 for values in one["per_second"].values())
        assert all(ratio > 0 for ratio in one["ratios"].values())


@pytest.mark.long
def test_stragglers_hold_up_step_and_not_recv() -> None:
    (one,) = printed("straggler", "--num-envs", "4", "--min-envs", "3")["comparisons"]
    assert one["per_second"].keys() == {"step", "recv", "SyncVectorEnv", "AsyncVectorEnv"}
    # Four that wait 5 ms and more at a time.
    assert max(one["per_second"]["recv"]) < 4 / 0.005
    assert max(one["per_second"]["SyncVectorEnv"]) < 1 / 0.005


@pytest.mark.long
def test_latency_has_round_trips_and_what_a_connection_costs() -> None:
    result = printed("latency", "--idle", "0.2")
    contenders = {"megaflow", "over gRPC", "gRPC echo", "socket echo"}
    (one,) = result["comparisons"]
    assert one["per_second"].keys() == contenders
    assert result["round_trip_ms"].keys() == contenders
    for times in result["round_trip_ms"].values():
        assert 0 < times["p50"] <= times["p99"]
    for name in ("idle_connection_percent", "no_connection_percent", "client_us_per_step"):
        assert len(result[name]) == 2
        assert all(0 <= value < 1000 for value in result[name])


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("native", "--num-envs", "4,16384", "--server", "inline"), ["CartPole-v1", "local"]),
        (("straggler", "--num-envs", "4", "--min-envs", "2"), ["AsyncVectorEnv", "recv × step: "]),
        (("latency", "--idle", "0.1", "--server", "inline"), ["socket echo", "p99", "µs"]),
    ],
)
def test_tables_fit_a_terminal_and_name_their_contenders(
    options: tuple[str, ...], named: list[str]
) -> None:
    with place() as here:
        text = here.run("-m", "megaflow_server", "bench", *options, *SHORT)
    for part in (*named, "megaflow", "Python"):
        assert part in text
    assert "…" not in text


def test_what_repeats_differ_by_is_not_told_as_what_a_connection_takes() -> None:
    noise = [(0.012, 0.013), (0.015, 0.011), (0.011, 0.012)]
    assert "below what can be seen, 0.40% of a core; " in idle_line(noise)
    assert "below what can be seen" in idle_line([(0.5, 0.1)])  # once says nothing of the noise
    clear = [(0.112, 0.013), (0.115, 0.011), (0.111, 0.012)]
    assert idle_line(clear) == (
        "An idle connection: 9.90% of a core; client, gateway and workers take 1.20% without it."
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("bench", "ending"),
    [
        (("vector", "--num-envs", "2"), "megaflow, warming up"),
        (("straggler", "--num-envs", "4", "--min-envs", "2"), "recv, warming up"),
        (("latency",), "over gRPC, warming up"),
        (
            ("overload", "--sessions", "2", "--askers", "2", "--rates", "5", "--seconds", "3"),
            "patient",
        ),
    ],
)
def test_ctrl_c_ends_a_benchmark_with_one_line(
    bench: tuple[str, ...], ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches all of the group, as at a terminal."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as at a terminal: else nothing is said meanwhile
    command = [sys.executable, "-m", "megaflow_server", "bench", *bench]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        said = b""  # in colours, numbers among them
        while ending.encode() not in said:
            more = os.read(process.stderr.fileno(), 65536)
            assert more, said
            said += more
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read().decode()
    assert process.returncode == 130
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", rest).split()
    assert " ".join(lines).endswith("Error: interrupted before everything was measured"), rest
    assert "Traceback" not in rest
    assert "Worker-" not in rest


@pytest.mark.parametrize("kind", ["gRPC", "socket"])
def test_an_echo_answers_every_time(kind: str) -> None:
    with echo(kind, b"x" * 50, b"y" * 100_000) as trip:
        for _ in range(20):
            trip()


def test_frames_are_those_of_a_step() -> None:
    asked, answer = frames("CartPole-v1")
    assert 10 < len(asked) < len(answer) < 1000


def test_contenders_are_measured_in_turns_and_warmed_up() -> None:
    measured: list[tuple[str, float]] = []

    def contender(name: str) -> Any:
        def measure(seconds: float) -> float:
            measured.append((name, seconds))
            return float(len(measured))

        return measure

    result = in_turns("x", {"a": contender("a"), "b": contender("b")}, 2.0, 2, lambda _: None)
    assert measured == [("a", 0.5), ("b", 0.5), ("a", 2.0), ("b", 2.0), ("a", 2.0), ("b", 2.0)]
    assert result.per_second == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_the_benchmarks_own_environments_keep_gymnasiums_contract() -> None:
    env = Pixels()
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert env.observation_space.contains(env.step(np.int64(0))[0])
    sleeper: gym.Env[Any, Any] = Sleeper(usual=0.0, rare=0.01, one_in=2)
    sleeper.reset(seed=1)
    assert sleeper.observation_space.contains(sleeper.step(np.int64(0))[0])
