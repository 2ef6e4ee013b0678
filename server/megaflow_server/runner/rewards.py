"""Which rewards count: finite numbers by name, one of them the headline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from megaflow_server.runner.failures import EVALUATING, Failed

__all__ = ["HEADLINE", "checked", "headline"]

# Of named rewards, the one that is a task's.
HEADLINE: Final = "reward"


def checked(rewards: Mapping[str, Any]) -> dict[str, float]:
    """Rewards that are finite numbers. Raises Failed."""
    try:
        numbers = {str(name): float(value) for name, value in rewards.items()}
    except (TypeError, ValueError) as error:
        raise Failed("verifier", EVALUATING, f"its rewards are no numbers: {error}") from error
    odd = [name for name, value in numbers.items() if not math.isfinite(value)]
    if odd:
        raise Failed("verifier", EVALUATING, f"{odd[0]} is {numbers[odd[0]]}, which is no reward")
    if not numbers or (HEADLINE not in numbers and len(numbers) > 1):
        known = ", ".join(numbers) or "none"
        raise Failed(
            "verifier", EVALUATING, f"none of its rewards ({known}) is called {HEADLINE!r}"
        )
    return numbers


def headline(rewards: Mapping[str, float]) -> float:
    """The one that is the task's."""
    return rewards.get(HEADLINE, next(iter(rewards.values())))
