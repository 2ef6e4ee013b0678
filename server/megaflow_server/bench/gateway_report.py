"""The results of the gateway benchmark for people, as a table, and for programs, as JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from megaflow_server.bench.figures import foot, head, milliseconds, percentile
from megaflow_server.bench.gateway import Figures, Plan
from megaflow_server.bench.machine import Machine


def as_json(plan: Plan, machine: Machine, figures: Figures) -> dict[str, Any]:
    """Times in milliseconds, memory in MiB."""
    return {
        **head("gateway", plan, machine),
        "calls": len(figures.overhead),
        "overhead_ms": milliseconds(figures.overhead, "p50", "p99", "max"),
        "failed": figures.failed,
        "crossed": figures.crossed,
        "lost": figures.lost,
        "cpu_per_call_ms": round(figures.cpu * 1000, 3),
        "memory_mib": round(figures.memory / 2**20, 1),
    }


def as_table(plan: Plan, machine: Machine, figures: Figures) -> Table:
    """One row."""
    streamed = "streamed " if plan.stream else ""
    table = Table(
        title=f"{plan.rollouts:,} rollouts, {plan.rate:g} {streamed}calls/s of a model of"
        f" {plan.delay * 1000:g} ms",
        caption=foot(
            "What calls took beyond the model's time, as their callers in another process saw it. Crossed: with"
            " another call's answer, or recorded in another rollout. Lost: not recorded exactly once. CPU and"
            " MiB: what the gateway's process took for a call, and in all.",
            machine,
        ),
        caption_justify="left",
    )
    for heading in (
        "calls",
        "p50 ms",
        "p99 ms",
        "max ms",
        "failed",
        "crossed",
        "lost",
        "CPU ms",
        "MiB",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    times = (f"{percentile(figures.overhead, part) * 1000:,.1f}" for part in (0.50, 0.99, 1.0))
    counts = (f"{count:,}" for count in (figures.failed, figures.crossed, figures.lost))
    used = (f"{figures.cpu * 1000:,.2f}", f"{figures.memory / 2**20:,.0f}")
    table.add_row(f"{len(figures.overhead):,}", *times, *counts, *used)
    return table
