"""`megaflow bench sandbox`, as a command, and what it makes of its measurements."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from docker_rig import busybox
from leftovers import place
from megaflow_server.bench.sandbox import PLAIN, SHELL, SOCKET, STREAM, Costs

COMMAND = ("-m", "megaflow_server", "bench", "sandbox", "--commands", "3")


def test_json_has_what_each_kind_of_command_took() -> None:
    with place() as here:
        printed = here.run(*COMMAND, "--backends", "process", "--json")
        here.assert_nothing_left()
    (one,) = json.loads(printed)["sandboxes"]
    assert (one["backend"], one["plain"]) == ("process", "a process")
    assert list(one["command_ms"]) == ["a process", STREAM, SHELL, SOCKET]
    for times in one["command_ms"].values():
        assert 0 < times["p50"] <= times["p99"] <= times["max"]
    assert set(one["ratio"]) == {STREAM, SHELL, SOCKET}


@pytest.mark.requires("docker")
def test_containers_are_beside_an_exec_of_their_engine() -> None:
    with place() as here:
        printed = here.run(*COMMAND, "--backends", "docker", "--image", busybox())
        here.assert_nothing_left()
    assert "docker exec" in printed
    assert "…" not in printed


def test_a_backend_without_sandboxes_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, *COMMAND, "--backends", "docker,pods"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "'pods': give docker, process" in done.stderr


def test_ratios_are_to_the_plain_way_of_the_same_backend() -> None:
    costs = Costs("docker", {PLAIN["docker"]: [1.0, 2.0, 3.0], STREAM: [0.1, 0.2, 0.9]})
    assert costs.ratio(STREAM, 0.5) == pytest.approx(0.1)
    assert costs.ratio(STREAM, 0.99) == pytest.approx(0.3)
