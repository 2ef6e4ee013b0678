"""What calls cost, exactly, or None where nobody can tell: never 0 for unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from megaflow.errors import InvalidArgument
from megaflow.generation import Usage

__all__ = ["Price"]

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens.

    Attributes:
        input_per_million: of prompts.
        output_per_million: of answers, reasoning included.
        cached_input_per_million: of what the engine had of a prompt already; None: as the rest of it.
    """

    input_per_million: float
    output_per_million: float
    cached_input_per_million: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidArgument(f"{name} = {value!r}: give 0 or more")

    def cost(self, usage: Usage | None) -> Decimal | None:
        """USD; None where the engine did not say how many tokens there were."""
        if usage is None:
            return None
        cached = 0
        if self.cached_input_per_million is not None:
            cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
        total = _exact(self.input_per_million) * (usage.prompt_tokens - cached)
        total += _exact(self.cached_input_per_million or 0.0) * cached
        total += _exact(self.output_per_million) * usage.completion_tokens
        return total / _MILLION


def _exact(value: float) -> Decimal:
    """The number as it was written, not the binary one that is next to it."""
    return Decimal(repr(float(value)))
