"""What `capacity` answers, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megaflow.errors import FailedPrecondition
from megaflow_server.orchestrator.simulation.capacity import MODES, Answer

__all__ = ["draw"]

_PANELS: list[tuple[str, Callable[[Answer], float], bool]] = [
    ("start-up, minutes (the last task)", lambda one: one.start_up_most / 60, False),
    ("tasks an hour", lambda one: one.per_hour, True),
    ("utilisation, %", lambda one: 100 * one.utilisation, False),
    ("USD for all", lambda one: one.cost, True),
]


def draw(answers: Sequence[Answer], path: Path) -> None:
    """Start-up, throughput, utilisation and cost over the number of tasks, a line for each mode, as PNG.

    Raises:
        FailedPrecondition: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FailedPrecondition(
            "drawing needs matplotlib: pip install 'megaflow[report]', or leave --out away"
        ) from error
    figure: Any = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, value, logarithmic) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for mode in MODES:
            these = [one for one in answers if one.mode == mode]
            axes.plot(
                [one.tasks for one in these], [value(one) for one in these], marker="o", label=mode
            )
        axes.set(
            title=title, xlabel="tasks", xscale="log", yscale="log" if logarithmic else "linear"
        )
        if not logarithmic:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=120, format="png")
