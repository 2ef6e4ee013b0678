"""The results of the benchmark of rollouts for people, as a table, and for programs, as JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from megaflow_server.bench.figures import foot, head
from megaflow_server.bench.machine import Machine
from megaflow_server.bench.rollouts import Figures, Plan

# What is counted, and its heading.
_WRONG = {
    "false_zeros": "zeros",
    "wrong_rewards": "rewards",
    "split_groups": "split",
    "lost": "lost",
    "crossed": "crossed",
    "masked": "masked",
}


def as_json(plan: Plan, machine: Machine, figures: Figures) -> dict[str, Any]:
    """Counts, and samples a second."""
    return {
        **head("rollouts", plan, machine),
        "seconds": round(figures.seconds, 2),
        "rewarded": figures.rewarded,
        "rate": round(figures.rate, 1),
        "spoilt": dict(sorted(figures.spoilt.items())),
        "killed": dict(sorted(figures.killed.items())),
        **{name: getattr(figures, name) for name in _WRONG},
    }


def as_table(plan: Plan, machine: Machine, figures: Figures) -> Table:
    """One row."""
    killed = ", ".join(f"{count} {kind}s" for kind, count in sorted(figures.killed.items()))
    table = Table(
        title=f"{plan.rollouts:,} rollouts at once, in groups of {plan.group_size}",
        caption=foot(
            f"Environments, agents and a model of 50 ms, with faults in {plan.faults:.0%} of the attempts; killed"
            f" meanwhile: {killed or 'nothing'}. Spoilt: without a reward, and others took their places."
            " Zeros, rewards: wrong ones. Split: groups. Lost: not exactly one row. Crossed: another sample's tokens."
            " Masked: a wrong mask, log-prob or version.",
            machine,
        ),
        caption_justify="left",
    )
    for heading in ("samples", "a second", "spoilt", *_WRONG.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row(
        f"{figures.rewarded:,}",
        f"{figures.rate:,.0f}",
        f"{figures.spoilt.total():,}",
        *(f"{getattr(figures, name):,}" for name in _WRONG),
    )
    return table
