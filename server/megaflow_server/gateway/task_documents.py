"""What runners are to know of a task: its document, which the store keeps as it is."""

from __future__ import annotations

import json
from typing import Final

from megaflow.errors import InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb

__all__ = ["document_of", "label"]

_MODES: Final = ("auto", "ephemeral", "persistent")
_KEEPS: Final = ("none", "failed", "all")
_MOST_MODELS: Final = 16
_MOST_RESCORED: Final = 100
_LONGEST_LABEL: Final = 200
# Characters of one task's arguments; JSON may take twenty times its size when it is read.
_LONGEST_ARGUMENTS: Final = 2**18


def document_of(task: pb.NewTask, field: str = "task") -> str:
    """What a runner reads of a task: JSON. Raises InvalidArgument, naming the field."""
    mode = task.mode or "auto"
    if mode not in _MODES:
        raise InvalidArgument(f"{field}.mode={mode!r}: choose among {', '.join(_MODES)}")
    keep = task.keep or "none"
    if keep not in _KEEPS:
        raise InvalidArgument(f"{field}.keep={keep!r}: choose among {', '.join(_KEEPS)}")
    if len(task.models) > _MOST_MODELS:
        raise InvalidArgument(f"{field}.models: {len(task.models)} roles, over {_MOST_MODELS}")
    if len(task.rescores) > _MOST_RESCORED:
        raise InvalidArgument(f"{field}.rescores: {len(task.rescores)} jobs, over {_MOST_RESCORED}")
    for role, model in task.models.items():
        label(f"{field}.models", role)
        label(f"{field}.models[{role!r}]", model)
    document = {
        "environment": task.environment,
        "env_kwargs": _arguments(f"{field}.env_kwargs", task.env_kwargs),
        "agent": task.agent,
        "agent_kwargs": _arguments(f"{field}.agent_kwargs", task.agent_kwargs),
        "models": dict(task.models),
        "mode": mode,
        "keep": keep,
        "snapshot": task.snapshot,
        "rescores": [label(f"{field}.rescores", one) for one in task.rescores],
        "limits": {"cpu": task.most.cpu, "memory": task.most.memory},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _arguments(field: str, text: str) -> object:
    if len(text) > _LONGEST_ARGUMENTS:
        raise InvalidArgument(
            f"{field}: {len(text)} characters of JSON, over {_LONGEST_ARGUMENTS}: name a file instead"
        )
    try:
        value = json.loads(text or "{}", parse_constant=_no_number)
        json.dumps(value, allow_nan=False)  # 1e999 is read as infinity
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{field}: is no JSON object: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{field}: is no JSON object but {text[:50]!r}")
    return value


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no number of JSON")


def label(field: str, text: str) -> str:
    """A name for people and files. Raises InvalidArgument."""
    if len(text) > _LONGEST_LABEL:
        raise InvalidArgument(f"{field}: {len(text)} characters, over {_LONGEST_LABEL}")
    # What is not printed as it is: new lines, terminals' escapes, text that runs backwards.
    if not text.isprintable():
        raise InvalidArgument(f"{field}={text!r}: give printable characters on one line")
    if ".." in text.split("/") or text.startswith("/"):
        raise InvalidArgument(f"{field}={text!r}: is a path out of its folder; leave '..' out")
    return text
