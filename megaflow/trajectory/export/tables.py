"""The rows of the Parquet export, without Parquet: of trajectories, of steps, of model calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from megaflow.trajectory.export.plain import dumps
from megaflow.trajectory.reader import TrajectoryReader
from megaflow.trajectory.records import (
    End,
    Failure,
    ModelCall,
    Record,
    Reset,
    Start,
    Step,
    Verdict,
)

__all__ = ["COLUMNS", "Row", "rows"]

Row = dict[str, Any]

# By table: column and type. `json` is text; lists are of what follows.
COLUMNS: Final[dict[str, dict[str, str]]] = {
    "trajectories": {
        "trajectory": "text",
        "attempt_id": "text",
        "job_id": "text",
        "task_id": "text",
        "group_id": "text",
        "sample": "int",
        "attempt": "int",
        "env": "text",
        "agent": "text",
        "models": "json",
        "seed": "int",
        "instruction": "text",
        "started": "float",
        "ended": "float",
        "status": "text",
        "valid": "bool",
        "reward": "float",
        "rewards": "json",
        "return": "float",
        "steps": "int",
        "calls": "int",
        "prompt_tokens": "int",
        "completion_tokens": "int",
        "cost": "float",
        "failure": "text",
        "failure_phase": "text",
        "failure_reason": "text",
        "dropped": "int",
        "damaged": "bool",
    },
    "steps": {
        "trajectory": "text",
        "record": "int",
        "episode": "int",
        "step": "int",
        "time": "float",
        "latency": "float",
        "action": "json",
        "observation": "json",
        "reward": "float",
        "reward_json": "json",
        "terminated": "bool",
        "truncated": "bool",
        "info": "json",
    },
    "calls": {
        "trajectory": "text",
        "record": "int",
        "rollout_id": "text",
        "group_id": "text",
        "attempt": "int",
        "call_id": "text",
        "parent": "text",
        "branch": "int",
        "role": "text",
        "model": "text",
        "dialect": "text",
        "messages": "json",
        "prompt": "text",
        "tools": "json",
        "sampling": "json",
        "response": "json",
        "prompt_token_ids": "ints",
        "completion_token_ids": "ints",
        "logprobs": "floats",
        "loss_mask": "ints",
        "weight_versions": "texts",
        "finish_reason": "text",
        "prompt_tokens": "int",
        "completion_tokens": "int",
        "cached_tokens": "int",
        "reasoning_tokens": "int",
        "cost": "float",
        "started": "float",
        "latency": "float",
        "first_token": "float",
        "status": "int",
        "error": "text",
    },
}


def rows(trajectory: TrajectoryReader) -> Iterator[tuple[str, Row]]:
    """The rows of one trajectory, each with its table; that of the trajectory itself comes last."""
    summary = _Summary(trajectory.name)
    for number, record in trajectory.numbered():
        summary.add(record)
        if isinstance(record, Reset | Step):
            yield "steps", {"trajectory": trajectory.name, "record": number, **summary.step(record)}
        elif isinstance(record, ModelCall):
            yield "calls", {"trajectory": trajectory.name, "record": number, **_call(record.call)}
    summary.row["dropped"] = len(trajectory.dropped)
    summary.row["damaged"] = trajectory.damaged
    yield "trajectories", summary.row


class _Summary:
    def __init__(self, name: str) -> None:
        self.row: Row = {
            "trajectory": name,
            "steps": 0,
            "calls": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "cost": 0.0,
        }
        self._episode = -1
        self._step = 0

    def add(self, record: Record) -> None:
        row = self.row
        if row.get("started") is None:
            row["started"] = record.time
        row["ended"] = record.time if record.time is not None else row.get("ended")
        match record:
            case Start():
                for name in COLUMNS["trajectories"].keys() & set(Start.__slots__):
                    row[name] = getattr(record, name)
                row["models"] = dumps(record.models)
            case Reset():
                self._episode += 1
                self._step = 0
            case Step():
                row["steps"] += 1
                self._step += 1
                if (reward := _number(record.reward)) is not None:
                    row["return"] = row.get("return", 0.0) + reward
            case ModelCall():
                row["calls"] += 1
                usage = record.call.get("usage") or {}
                for name in ("prompt_tokens", "completion_tokens"):
                    row[name] += usage.get(name) or 0
                row["cost"] = _sum(row["cost"], record.call.get("cost"))
            case Failure():
                row["failure"], row["failure_phase"] = record.failure, record.phase
                row["failure_reason"] = record.reason
            case Verdict():
                row["reward"], row["valid"] = record.reward, record.valid
                row["rewards"] = dumps(record.rewards)
            case End():
                row["status"] = record.status

    def step(self, record: Reset | Step) -> Row:
        row: Row = {"episode": max(self._episode, 0), "step": self._step, "time": record.time}
        row |= {"latency": record.latency, "info": dumps(record.info)}
        row["observation"] = dumps(record.observation)
        if isinstance(record, Step):
            row |= {"action": dumps(record.action), "reward": _number(record.reward)}
            row["reward_json"] = dumps(record.reward)
            row |= {"terminated": _flag(record.terminated), "truncated": _flag(record.truncated)}
        return row


def _sum(cost: float | None, more: float | None) -> float | None:
    """What a trajectory cost: None where nobody can tell what one of its calls did."""
    return None if cost is None or more is None else cost + more


def _number(value: Any) -> float | None:
    """A reward that is one number."""
    single = isinstance(value, int | float | np.number) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "biuf"
    )
    return float(value) if single else None


def _flag(value: Any) -> bool | None:
    """A flag; of several agents, None."""
    return bool(value) if isinstance(value, bool | np.bool_) else None


def _call(call: Mapping[str, Any]) -> Row:
    usage = call.get("usage") or {}
    row: Row = {}
    for name, kind in COLUMNS["calls"].items():
        value = usage.get(name) if name.endswith("_tokens") else call.get(name)
        if kind == "json" and value is not None:
            value = dumps(value)
        elif kind == "texts" and value is not None:
            value = [None if each is None else str(each) for each in value]
        elif kind == "float" and isinstance(value, float) and math.isnan(value):
            value = None
        row[name] = value
    del row["trajectory"], row["record"]
    return row
