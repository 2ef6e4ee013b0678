"""How an agent's keyword argument `sampling` is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from megaflow.agent import AgentTask
from megaflow.errors import InvalidArgument
from megaflow.generation import Sampling

__all__ = ["checked_sampling", "sampling_of"]


def checked_sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Sampling`; raises InvalidArgument for what is none."""
    known = [field.name for field in fields(Sampling)]
    if unknown := sorted(set(given) - set(known)):
        raise InvalidArgument(f"sampling: {', '.join(unknown)}: known are {', '.join(known)}")
    made = dict(given)
    if "stop" in made:
        made["stop"] = tuple(made["stop"])
    return made


def sampling_of(checked: Mapping[str, Any], task: AgentTask) -> Sampling:
    """What an agent samples with: with its task's seed, where it was given none."""
    return Sampling(**{"seed": task.seed, **checked})
