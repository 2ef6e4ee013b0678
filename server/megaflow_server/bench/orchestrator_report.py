"""The results of the orchestrator benchmark for people, as a table, and for programs, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from megaflow_server.bench.figures import foot, head, milliseconds, percentile
from megaflow_server.bench.machine import Machine
from megaflow_server.bench.orchestrator import Load, Plan
from megaflow_server.bench.sleepers import SPREAD


def as_json(plan: Plan, machine: Machine, loads: Sequence[Load]) -> dict[str, Any]:
    """Times in milliseconds unless they say seconds, memory in MiB."""
    return {
        **head("orchestrator", plan, machine),
        "loads": [
            {
                "tasks": one.tasks,
                "sleep_s": one.sleep,
                "tenants": one.tenants,
                "submitted_per_second": round(one.submitted),
                "ramp_s": round(one.ramp, 2),
                "schedule_to_start_ms": milliseconds(one.waited, "p50", "p99"),
                "overhead_ms": milliseconds(one.overhead, "p50", "p99", "max"),
                "claim_ms": milliseconds(one.claims, "p50", "p99"),
                "transaction_ms": round(one.transactions * 1000, 3),
                "completed_per_second": round(one.rate, 1),
                "memory_mib": round(one.memory / 2**20, 1),
            }
            for one in loads
        ],
    }


def as_table(plan: Plan, machine: Machine, loads: Sequence[Load]) -> Table:
    """One row for each load."""
    store = "SQLite in a temporary folder" if plan.store is None else plan.store.split(":")[0]
    table = Table(
        title=f"Tasks that sleep, {plan.runners} runners, {store}",
        caption=foot(
            f"{plan.queued:,} more wait behind those that sleep, each for {SPREAD:.0%} more or less than said. "
            "Ramp: until all of them sleep. Added: from claim to result, less the sleep. The process that is "
            "measured runs the runners, too.",
            machine,
        ),
        caption_justify="left",
    )
    headings = (
        "tasks",
        "of s",
        "tenants",
        "ramp s",
        "claim p99 ms",
        "added p50",
        "added p99 ms",
        "done/s",
    )
    for heading in (*headings, "MiB"):
        table.add_column(heading, justify="right")
    for one in loads:
        table.add_row(
            f"{one.tasks:,}",
            f"{one.sleep:g}",
            f"{one.tenants}",
            f"{one.ramp:,.1f}",
            f"{percentile(one.claims, 0.99) * 1000:,.1f}",
            f"{percentile(one.overhead, 0.50) * 1000:,.1f}",
            f"{percentile(one.overhead, 0.99) * 1000:,.1f}",
            f"{one.rate:,.0f}" if not one.sleep else "",
            f"{one.memory / 2**20:,.0f}",
        )
    return table
