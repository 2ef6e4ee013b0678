"""`megaflow bench gateway`, as a command, and what it makes of its measurements."""

from __future__ import annotations

import json
import re

import pytest

from leftovers import place
from megaflow_server.bench.gateway import Plan, _lost, _strays

COMMAND = ("-m", "megaflow_server", "bench", "gateway", "--rollouts", "20", "--rate", "50")


@pytest.mark.long
def test_json_has_what_calls_took_and_whether_any_was_lost() -> None:
    with place() as here:
        printed = here.run(*COMMAND, "--seconds", "1", "--stream", "--json")
        here.assert_nothing_left()
    result = json.loads(printed)
    assert result["calls"] == 50
    assert (result["failed"], result["crossed"], result["lost"]) == (0, 0, 0)
    assert result["overhead_ms"]["p50"] <= result["overhead_ms"]["p99"]
    assert result["cpu_per_call_ms"] > 0
    assert result["plan"]["stream"]


def test_table_fits_a_terminal() -> None:
    with place() as here:
        printed = here.run(*COMMAND, "--seconds", "0.5")
    assert "20 rollouts, 50 calls/s of a model of 50 ms" in printed
    assert "…" not in printed
    # Calls, three times, then none failed, crossed or lost.
    assert re.search(r"│ +25 │( +[\d.]+ │){3}( +0 │){3}", printed)


def test_what_is_lost_and_what_is_crossed_is_counted() -> None:
    plan = Plan(rollouts=2, rate=2.0, seconds=2.0)
    whole = {"0": ["0-0", "0-2", "0-0"], "1": ["1-1", "1-3", "1-1"]}
    assert (_lost(plan, whole), _strays(whole)) == (0, 0)
    assert _lost(plan, {**whole, "1": ["1-1", "1-1"]}) == 1
    assert _strays({**whole, "0": ["0-0", "1-3", "0-2"]}) == 1
