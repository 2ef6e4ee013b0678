"""`megaflow bench pool`, as a command, and what it makes of its measurements."""

from __future__ import annotations

import json

import pytest

from docker_rig import busybox
from leftovers import place
from megaflow_server.bench.pool import Claims

COMMAND = ("-m", "megaflow_server", "bench", "pool")
SHORT = ("--claims", "4", "--at-once", "12", "--size", "3")


@pytest.mark.long
@pytest.mark.parametrize(
    "backend", ["process", pytest.param("docker", marks=pytest.mark.requires("docker"))]
)
def test_json_has_cold_and_warm_claims_and_many_at_once(backend: str) -> None:
    image = ("--image", busybox()) if backend == "docker" else ()
    with place() as here:
        printed = here.run(*COMMAND, *SHORT, "--backends", backend, *image, "--json")
        here.assert_nothing_left()
    (result,) = json.loads(printed)["pools"]
    assert result["backend"] == backend
    assert 0 < result["warm_ms"]["p50"] < result["cold_ms"]["p50"]
    assert 0 < result["ratio"]["p50"] < 1
    burst = result["burst"]
    assert burst["in_order"]
    assert burst["claims"] == 12
    assert 3 <= burst["created"] <= 12
    assert burst["creating_at_once"] <= 4
    assert burst["wait_ms"]["max"] <= burst["seconds"] * 1000


def test_the_table_says_how_much_a_warm_claim_is_of_a_cold_one() -> None:
    with place() as here:
        printed = here.run(*COMMAND, *SHORT, "--backends", "process")
    assert "warm" in printed
    assert "at once: in order" in printed.replace("\n", " ")
    assert "…" not in printed


def test_a_backend_that_is_none_is_refused() -> None:
    with place() as here, here.start(*COMMAND, "--backends", "dokcer") as command:
        _, errors = command.communicate()
        assert command.returncode == 2
        assert "dokcer" in errors


def test_ratios() -> None:
    assert Claims("docker", cold=[2.0] * 5, warm=[0.1] * 5).ratio(0.5) == 0.05
