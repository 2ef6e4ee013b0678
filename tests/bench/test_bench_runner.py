"""`megaflow bench runner`, as a command: what a step costs, and an attempt that waits."""

from __future__ import annotations

import json

import pytest

from leftovers import place

COMMAND = ("-m", "megaflow_server", "bench", "runner", "--attempts", "200", "--steps", "200")
# The promise of an attempt that waits, in KiB.
MOST = 64.0


@pytest.mark.long
def test_an_attempt_that_waits_is_small_and_none_fails() -> None:
    with place() as here:
        result = json.loads(here.run(*COMMAND, "--json"))
        here.assert_nothing_left()
    assert result["failed"] == 0
    assert 0 < result["memory_per_attempt_kib"] <= MOST
    assert result["overhead_p50_ms"] <= 2.0
    assert result["idle_cores"] < 0.5
