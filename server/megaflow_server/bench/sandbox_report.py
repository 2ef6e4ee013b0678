"""The results of the sandbox benchmark for people, as a table, and for programs, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from megaflow_server.bench.figures import foot, head, milliseconds, percentile
from megaflow_server.bench.machine import Machine
from megaflow_server.bench.sandbox import PLAIN, Costs, Plan


def as_json(plan: Plan, machine: Machine, costs: Sequence[Costs]) -> dict[str, Any]:
    """Times in milliseconds; ratios to the plain way of the same run."""
    return {
        **head("sandbox", plan, machine),
        "sandboxes": [
            {
                "backend": one.backend,
                "plain": PLAIN[one.backend],
                "command_ms": {
                    name: milliseconds(seconds, "p50", "p99", "max")
                    for name, seconds in one.seconds.items()
                },
                "ratio": {
                    name: {
                        "p50": round(one.ratio(name, 0.50), 4),
                        "p99": round(one.ratio(name, 0.99), 4),
                    }
                    for name in one.seconds
                    if name != PLAIN[one.backend]
                },
            }
            for one in costs
        ],
    }


def as_table(plan: Plan, machine: Machine, costs: Sequence[Costs]) -> Table:
    """One row for each way to run a command."""
    table = Table(
        title="What a command in a sandbox takes",
        caption=foot(
            f"{plan.commands} commands of each kind (`true`), taken in turns; ms within which half of them and 99 % "
            "were done, and how much that is of the first row of the same backend. A shell keeps its state, exec has "
            "none; an environment calls both through its socket.",
            machine,
        ),
        caption_justify="left",
    )
    table.add_column("backend")
    table.add_column("command")
    for heading in ("p50 ms", "p99 ms", "p50 ×", "p99 ×"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in costs:
        for name, seconds in one.seconds.items():
            times = (f"{percentile(seconds, part) * 1000:,.2f}" for part in (0.50, 0.99))
            ratios = (f"{one.ratio(name, part):.3f}" for part in (0.50, 0.99))
            table.add_row(one.backend, name, *times, *ratios)
    return table
