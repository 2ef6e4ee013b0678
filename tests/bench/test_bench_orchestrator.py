"""`megaflow bench orchestrator`, as a command."""

from __future__ import annotations

import json

import pytest

from leftovers import place

COMMAND = ("-m", "megaflow_server", "bench", "orchestrator", "--runners", "2")
SHORT = ("--task-seconds", "0.3", "--queued", "30", "--rate-tasks", "50", "--tenants", "5")


@pytest.mark.long
def test_json_has_every_size_and_both_rates() -> None:
    with place() as here:
        printed = here.run(*COMMAND, "--tasks", "2,20", *SHORT, "--json")
        here.assert_nothing_left()
    loads = json.loads(printed)["loads"]
    assert [(load["tasks"], load["sleep_s"], load["tenants"]) for load in loads] == [
        (2, 0.3, 1),
        (20, 0.3, 1),
        (50, 0.0, 1),
        (50, 0.0, 5),
    ]
    for load in loads:
        assert 0 < load["claim_ms"]["p50"] <= load["claim_ms"]["p99"]
        assert 0 < load["overhead_ms"]["p50"] <= load["overhead_ms"]["p99"]
        assert load["completed_per_second"] > 0
        assert load["memory_mib"] > 0


def test_the_table_names_the_store() -> None:
    with place() as here:
        store = f"sqlite:///{here.folder / 'tasks.db'}"
        printed = here.run(*COMMAND, "--tasks", "3", *SHORT, "--store", store)
    assert "Tasks that sleep, 2 runners, sqlite" in printed
    assert "…" not in printed
