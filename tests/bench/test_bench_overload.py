"""`megaflow bench overload`, as a command, and what it makes of its measurements."""

from __future__ import annotations

import json

import pytest

from leftovers import place
from megaflow_server.bench.askers import Asked
from megaflow_server.bench.overload import Load, Phase

COMMAND = ("-m", "megaflow_server", "bench", "overload", "--sessions", "4", "--interval", "0.05")
SHORT = ("--seconds", "1", "--repeats", "2")


@pytest.mark.long
def test_json_has_what_refusals_take_and_what_they_cost_the_admitted() -> None:
    with place() as here:
        printed = here.run(*COMMAND, *SHORT, "--askers", "3", "--rates", "50", "--json")
        here.assert_nothing_left()
    result = json.loads(printed)
    patient, impatient = result["loads"]
    assert (patient["kind"], impatient["kind"]) == ("patient", "impatient")
    # Three clients who were told to come back after a second, and fifty calls a second of others.
    assert 1 <= patient["refusals_per_second"] <= 6
    assert 20 <= impatient["refusals_per_second"] <= 51
    for load in result["loads"]:
        assert 0 < load["refusal_ms"]["p50"] <= load["refusal_ms"]["max"]
        assert load["told_s"]["p50"] >= 1.0
        assert load["step_ratio"]["p99"] > 0
        for phase in (*load["calm"], *load["loaded"]):
            assert 0 < phase["steps"] <= 4 * 21
            assert phase["gateway_mib"] > 1
        assert len(load["calm"]) == len(load["loaded"]) == 2


@pytest.mark.long
def test_table_has_a_row_for_nobody_and_for_each_load() -> None:
    with place() as here:
        options = ("--seconds", "0.3", "--repeats", "1", "--askers", "2", "--rates", "10,20")
        printed = here.run(*COMMAND, *options)
    for text in ("nobody", "2 clients", "10 a second", "20 a second"):
        assert text in printed
    assert "…" not in printed


def test_ratio_is_of_each_repeats_own() -> None:
    load = Load("patient", 1)
    load.calm = [Phase([1.0]), Phase([10.0]), Phase([3.0])]
    load.phases = [Phase([2.0]), Phase([20.0]), Phase([3.0])]
    load.asked = [Asked([0.1] * 4, 2.0), Asked([0.1] * 6, 2.0), Asked([0.1] * 100, 2.0)]
    assert load.ratio(0.99) == 2.0
    assert load.refusals_per_second == 3.0


@pytest.mark.parametrize("option", ["--askers", "--rates"])
def test_what_cannot_be_asked(option: str) -> None:
    with place() as here:
        process = here.start(*COMMAND, option, "0")
        _, errors = process.communicate()
    assert process.returncode == 2
    assert option in errors
