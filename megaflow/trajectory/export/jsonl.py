"""JSON lines: one for each record, all fields of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from megaflow.trajectory.export.files import Lines
from megaflow.trajectory.export.plain import dumps
from megaflow.trajectory.reader import TrajectoryReader

__all__ = ["export"]


def export(trajectories: Iterable[TrajectoryReader], out: Path | None) -> None:
    """Write all records of all trajectories, and a line of kind `dropped` for each gap, after the others."""
    with Lines(out) as lines:
        for trajectory in trajectories:
            for number, record in trajectory.numbered():
                row = {"trajectory": trajectory.name, "record": number, "kind": record.kind}
                row |= {each.name: getattr(record, each.name) for each in fields(record)}
                lines.write(dumps(row) + "\n")
            for gap in trajectory.dropped:
                row = {"trajectory": trajectory.name, "record": None, "kind": "dropped"}
                row |= {each.name: getattr(gap, each.name) for each in fields(gap)}
                lines.write(dumps(row) + "\n")
