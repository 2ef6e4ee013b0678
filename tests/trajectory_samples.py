"""Trajectories for tests: records of all kinds, and the bytes of their files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from megaflow.trajectory import (
    End,
    Event,
    Failure,
    ModelCall,
    Record,
    Reset,
    Start,
    Step,
    Verdict,
)
from megaflow.trajectory import records as coding
from megaflow.trajectory.frames import frame, preamble

ID = 0xF00D


def ends(records: Iterable[Record], file_id: int = ID) -> tuple[bytes, list[int]]:
    """A file's bytes, and where its preamble and each of its records end."""
    data = preamble(file_id)
    places = [len(data)]
    for number, record in enumerate(records):
        data += frame(record.code, number, coding.encode(record), file_id)
        places.append(len(data))
    return data, places


def write(path: Path, records: Iterable[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ends(records)[0])
    return path


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def tool_call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def call(messages: list[Any], response: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """A call record's plain form."""
    return {
        "rollout_id": "r",
        "call_id": f"c{len(messages)}",
        "branch": 0,
        "model": "tiny",
        "messages": messages,
        "response": response,
        "tools": [
            {"type": "function", "function": {"name": "ls", "parameters": {"type": "object"}}}
        ],
        "prompt_token_ids": [1, 2, 3],
        "completion_token_ids": [4, 5],
        "logprobs": [-0.5, -0.25],
        "loss_mask": [1, 1],
        "weight_versions": [7, 7],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "reasoning_tokens": 1},
        "cost": 0.25,
        "latency": 0.5,
        "status": 200,
        **more,
    }


def conversation() -> list[dict[str, Any]]:
    """Two calls: the first uses two tools, the second sees their results and ends."""
    first = [message("system", "Be brief."), message("user", "What is here?")]
    asks = message(
        "assistant",
        None,
        reasoning_content="Look.",
        tool_calls=[tool_call("t1", "ls", '{"path": "."}'), tool_call("t2", "ls", "not json")],
    )
    # As a program gives it back: without the reasoning.
    echoed = {key: value for key, value in asks.items() if key != "reasoning_content"}
    second = [
        *first,
        echoed,
        message("tool", "a.txt", tool_call_id="t1"),
        message("tool", "no such path", tool_call_id="t2"),
    ]
    return [call(first, asks), call(second, message("assistant", "One file: a.txt."))]


def agentic(name: str = "a1", reward: float | None = 1.0) -> list[Record]:
    """An attempt of an agent that calls a model."""
    return [
        Start(
            time=1.0,
            attempt_id=name,
            task_id="t",
            agent="tool",
            models={"policy": "tiny"},
            versions={"tool": "1.2"},
        ),
        *(ModelCall(time=2.0 + n, call=each) for n, each in enumerate(conversation())),
        Verdict(time=4.0, reward=reward, rewards={"tests": reward}, valid=reward is not None),
        End(time=5.0, status="succeeded"),
    ]


def classic(name: str = "g1", steps: int = 3) -> list[Record]:
    """An attempt in an environment of numbers."""
    observation = np.arange(4, dtype=np.float32)
    return [
        Start(time=1.0, attempt_id=name, env="CartPole-v1", agent="random", seed=3),
        Reset(time=1.5, observation=observation, info={"n": np.int64(1)}, seed=3),
        *(
            Step(
                time=2.0 + n,
                action=np.int64(n % 2),
                observation=observation + n,
                reward=1.0,
                terminated=n == steps - 1,
                truncated=False,
                info={},
            )
            for n in range(steps)
        ),
        Event(time=8.0, name="note", data=("x", np.float32(2))),
        Failure(time=8.5, failure="environment", phase="running", reason="it hung", log_tail="…"),
        Verdict(time=9.0, reward=float(steps)),
        End(time=9.5, status="succeeded"),
    ]
