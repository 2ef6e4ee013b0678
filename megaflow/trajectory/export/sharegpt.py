"""ShareGPT: conversations for supervised training, one to a line, in the dialect that LLaMA-Factory reads.

`conversations` alternates between human or observation and gpt or function_call; `system` and `tools` stand beside
it. Only what the policy saw and said is there; its last call holds all of a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megaflow.trajectory.export.conversations import (
    Conversations,
    arguments_of,
    text_of,
    tool_calls_of,
)
from megaflow.trajectory.export.files import Lines
from megaflow.trajectory.export.plain import dumps
from megaflow.trajectory.reader import TrajectoryReader
from megaflow.trajectory.records import ModelCall, Start, Verdict

__all__ = ["conversation", "export"]

_KINDS = ("start", "model_call", "verdict")


def export(trajectories: Iterable[TrajectoryReader], out: Path | None) -> None:
    """Write the conversations of all trajectories; one without calls of a model has none."""
    with Lines(out) as lines:
        for trajectory in trajectories:
            for line in _conversations(trajectory):
                lines.write(dumps(line) + "\n")


def _conversations(trajectory: TrajectoryReader) -> list[dict[str, Any]]:
    common: dict[str, Any] = {"trajectory": trajectory.name, "reward": None, "valid": None}
    conversations = Conversations()
    calls: dict[int, Mapping[str, Any]] = {}
    for _, record in trajectory.numbered(_KINDS):
        if isinstance(record, Start):
            common["task_id"] = record.task_id
        elif isinstance(record, Verdict):
            common |= {"reward": record.reward, "valid": record.valid}
        elif isinstance(record, ModelCall) and record.call.get("role", "policy") == "policy":
            call = record.call
            if call.get("response") is None or not call.get("messages"):
                continue
            place, *_ = conversations.place(call["messages"])
            conversations.answer(place, call["response"])
            calls[place.index] = call
    return [
        {**common, "id": f"{trajectory.name}/{index}", **conversation(call)}
        for index, call in calls.items()
    ]


def conversation(call: Mapping[str, Any]) -> dict[str, Any]:
    """All that was said up to and with a call's answer."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in [*call["messages"], call["response"]]:
        if message.get("role") in ("system", "developer"):
            system.append(text_of(message.get("content")))
        else:
            _add(turns, _turn(message))
    for turn in turns:
        turn.pop("several", None)
    tools = [tool.get("function", tool) for tool in call.get("tools") or ()]
    return {
        "conversations": turns,
        "system": "\n\n".join(system),
        "tools": dumps(tools) if tools else "",
    }


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    text = text_of(message.get("content"))
    if message.get("role") == "tool":
        return {"from": "observation", "value": text}
    if message.get("role") != "assistant":
        return {"from": "human", "value": text}
    calls = [
        {"name": name, "arguments": arguments_of(arguments)}
        for _, name, arguments in tool_calls_of(message)
    ]
    if not calls:
        return {"from": "gpt", "value": text}
    turn = {"from": "function_call", "value": dumps(calls[0] if len(calls) == 1 else calls)}
    # What the model said beside its calls: readers of this format pass over keys that they do not know.
    return {**turn, "text": text} if text else turn


def _add(turns: list[dict[str, Any]], turn: dict[str, Any]) -> None:
    """Join a turn to one of its kind: the format knows one observation for all calls of a turn."""
    if not turns or turns[-1]["from"] != turn["from"] or turn["from"] == "function_call":
        turns.append(turn)
    elif turn["from"] == "observation":
        last = turns[-1]
        earlier = json.loads(last["value"]) if last.pop("several", False) else [last["value"]]
        turns[-1] = {**last, "value": dumps([*earlier, turn["value"]]), "several": True}
    else:
        turns[-1] = {**turns[-1], "value": f"{turns[-1]['value']}\n\n{turn['value']}"}
