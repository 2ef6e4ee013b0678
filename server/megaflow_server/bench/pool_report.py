"""The results of the pool benchmark for people, as a table, and for programs, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from megaflow_server.bench.figures import foot, head, milliseconds, percentile
from megaflow_server.bench.machine import Machine
from megaflow_server.bench.pool import Burst, Claims, Plan


def as_json(plan: Plan, machine: Machine, claims: Sequence[Claims]) -> dict[str, Any]:
    """Times in milliseconds, but for the burst's seconds; ratios of warm claims to cold ones of the same run."""
    return {
        **head("pool", plan, machine),
        "pools": [
            {
                "backend": one.backend,
                "cold_ms": milliseconds(one.cold, "p50", "p99", "max"),
                "warm_ms": milliseconds(one.warm, "p50", "p99", "max"),
                "ratio": {"p50": round(one.ratio(0.50), 4), "p99": round(one.ratio(0.99), 4)},
                "burst": _burst(one.burst),
            }
            for one in claims
        ],
    }


def as_table(plan: Plan, machine: Machine, claims: Sequence[Claims]) -> Table:
    """Two rows for each backend, and one for the burst."""
    table = Table(
        title="What a claim of a sandbox takes",
        caption=foot(
            f"{plan.claims} claims of each kind, in turns, each until the result of a first command; ms within which "
            f"half of them and 99 % were done, and how much that is of a cold one. At once: {plan.at_once} claims on "
            f"a pool of {plan.size} that was empty, each used for a command, reset and verified for the next.",
            machine,
        ),
        caption_justify="left",
    )
    table.add_column("backend")
    table.add_column("claim")
    for heading in ("p50 ms", "p99 ms", "p50 ×", "p99 ×"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in claims:
        table.add_row(one.backend, "cold", *_times(one.cold), "1", "1")
        ratios = (f"{one.ratio(part):.3f}" for part in (0.50, 0.99))
        table.add_row(one.backend, "warm", *_times(one.warm), *ratios)
        table.add_row(one.backend, _words(one.burst), *_times(one.burst.waits), "", "")
    return table


def _words(burst: Burst) -> str:
    order = "in order" if burst.in_order else "OUT OF ORDER"
    return f"at once: {order}, {burst.created} made, all in {burst.seconds:.1f} s"


def _times(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{percentile(seconds, 0.50) * 1000:,.1f}", f"{percentile(seconds, 0.99) * 1000:,.1f}"


def _burst(burst: Burst) -> dict[str, Any]:
    return {
        "claims": len(burst.waits),
        "wait_ms": milliseconds(burst.waits, "p50", "p99", "max"),
        "in_order": burst.in_order,
        "seconds": round(burst.seconds, 3),
        "created": burst.created,
        "creating_at_once": burst.creating,
    }
