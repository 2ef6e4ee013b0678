"""ATIF, Harbor's Agent Trajectory Interchange Format: one JSON document for each trajectory, written as it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from megaflow.trajectory.export.atif_steps import Steps
from megaflow.trajectory.export.files import Lines
from megaflow.trajectory.export.plain import dumps
from megaflow.trajectory.reader import TrajectoryReader
from megaflow.trajectory.records import End, Failure, ModelCall, Record, Start, Verdict

__all__ = ["SCHEMA", "export"]

SCHEMA: Final = "ATIF-v1.7"


def export(trajectories: Iterable[TrajectoryReader], out: Path) -> None:
    """Write `NAME.atif.json` for each trajectory into a folder.

    Raises:
        FailedPrecondition, ResourceExhausted: a file cannot be written.
    """
    taken: set[str] = set()
    for trajectory in trajectories:
        name, count = trajectory.name, 1
        while name in taken:  # the same name in two folders
            count += 1
            name = f"{trajectory.name}-{count}"
        taken.add(name)
        with Lines(out / f"{name}.atif.json") as lines:
            _document(trajectory, lines)


def _document(trajectory: TrajectoryReader, lines: Lines) -> None:
    summary = _Summary(trajectory.name)
    path = trajectory.path if "://" in trajectory.path else os.path.abspath(trajectory.path)
    steps = Steps(path.rstrip("/").rpartition("/")[0])
    count = 0
    lines.write(f'{{"schema_version":"{SCHEMA}","trajectory_id":{dumps(trajectory.name)},"steps":[')
    for _, record in trajectory.numbered():
        summary.add(record)
        for step in steps.add(record):
            count += 1
            lines.write(f"{',' if count > 1 else ''}\n{dumps({'step_id': count, **step})}")
    for step in steps.finish():
        count += 1
        lines.write(f"{',' if count > 1 else ''}\n{dumps({'step_id': count, **step})}")
    if trajectory.dropped:
        summary.extra["dropped"] = [str(each) for each in trajectory.dropped]
    rest = dumps(summary.rest(count))
    lines.write("\n]," + rest[1:] + "\n")


class _Summary:
    """What stands beside the steps: known only once all records were read, so it comes after them."""

    def __init__(self, name: str) -> None:
        self.extra: dict[str, Any] = {}
        self._session = name
        self._agent: dict[str, Any] = {"name": "unknown", "version": "unknown"}
        self._totals: dict[str, int] = {}
        # None once one call's is not known: a part is no total.
        self._cost: float | None = 0.0

    def add(self, record: Record) -> None:
        match record:
            case Start():
                self._start(record)
            case ModelCall():
                self._call(record)
            case Failure():
                self.extra.setdefault("failures", []).append(
                    {
                        name: getattr(record, name)
                        for name in ("failure", "phase", "reason", "valid", "log_tail")
                    }
                )
            case Verdict():
                self.extra |= {"reward": record.reward, "rewards": record.rewards}
                self.extra["valid"] = record.valid
            case End():
                self.extra["status"] = record.status

    def _start(self, record: Start) -> None:
        self._session = record.attempt_id
        self._agent["name"] = record.agent or "unknown"
        self._agent["version"] = record.versions.get(record.agent or "agent", "unknown")
        if policy := record.models.get("policy"):
            self._agent["model_name"] = policy
        for name in ("job_id", "task_id", "group_id", "sample", "attempt", "env", "seed"):
            if (value := getattr(record, name)) is not None:
                self.extra[name] = value

    def _call(self, record: ModelCall) -> None:
        call = record.call
        if call.get("role", "policy") != "policy":
            self.extra["other_calls"] = self.extra.get("other_calls", 0) + 1
            return
        if call.get("tools"):
            self._agent.setdefault("tool_definitions", call["tools"])
        if call.get("model"):
            self._agent.setdefault("model_name", call["model"])
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            if (value := (call.get("usage") or {}).get(name)) is not None:
                key = f"total_{name}"
                self._totals[key] = self._totals.get(key, 0) + value
        cost = call.get("cost")
        self._cost = None if cost is None or self._cost is None else self._cost + cost

    def rest(self, steps: int) -> dict[str, Any]:
        totals: dict[str, float] = dict(self._totals)
        if totals and self._cost is not None:
            totals["total_cost_usd"] = self._cost
        return {
            "session_id": self._session,
            "agent": self._agent,
            "final_metrics": {**totals, "total_steps": steps},
            "extra": self.extra,
        }
