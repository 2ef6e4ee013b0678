"""The results of the runner's benchmark for people, as a table, and for programs, as JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from megaflow_server.bench.figures import foot, head, milliseconds, percentile
from megaflow_server.bench.machine import Machine
from megaflow_server.bench.runner import Figures, Plan


def as_json(plan: Plan, machine: Machine, figures: Figures) -> dict[str, Any]:
    """Times in milliseconds, memory in KiB."""
    return {
        **head("runner", plan, machine),
        "bare_ms": milliseconds(figures.bare, "p50", "p99"),
        "recorded_ms": milliseconds(figures.recorded, "p50", "p99"),
        "overhead_p50_ms": round(figures.overhead * 1000, 3),
        "opening_s": round(figures.opening, 2),
        "memory_per_attempt_kib": round(figures.memory / 1024, 1),
        "idle_cores": round(figures.cpu, 3),
        "failed": figures.failed,
    }


def as_table(plan: Plan, machine: Machine, figures: Figures) -> Table:
    """One row."""
    table = Table(
        title=f"A runner with {plan.attempts:,} attempts at {plan.env}",
        caption=foot(
            "A step without a runner, and one that is recorded. KiB: what its process grew by for each attempt that"
            " waits, the client's side of the environment included. Cores: what it took while all of them waited.",
            machine,
        ),
        caption_justify="left",
    )
    for heading in (
        "bare p50 ms",
        "recorded p50 ms",
        "p99 ms",
        "begun s",
        "KiB",
        "cores",
        "failed",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row(
        f"{percentile(figures.bare, 0.5) * 1000:.2f}",
        f"{percentile(figures.recorded, 0.5) * 1000:.2f}",
        f"{percentile(figures.recorded, 0.99) * 1000:.2f}",
        f"{figures.opening:.1f}",
        f"{figures.memory / 1024:.1f}",
        f"{figures.cpu:.2f}",
        f"{figures.failed:,}",
    )
    return table
