"""How much calls may take, of a task, a job, a tenant; no input or output.

A call counts in each of its budgets, or begins in none. Whether a limit is reached is asked before a call
begins, and what it took is known when it ends: so calls never pass their number, and tokens and money pass
theirs by what was under way at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from megaflow.calls.rates import Rate
from megaflow.errors import BudgetExhausted, InvalidArgument
from megaflow.generation import Usage

__all__ = ["Allowance", "Budget", "Charge", "begin"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of a budget; None for none.

    Attributes:
        calls: that begin.
        tokens: of prompts and answers.
        cost: USD.
        seconds: from the budget's beginning; calls under way end then.
        unpriced: whether models without a price may be called though `cost` is limited.
    """

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    unpriced: bool = False

    def __post_init__(self) -> None:
        for name in ("calls", "tokens", "cost", "seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidArgument(f"{name} = {value!r}: give 0 or more")


class Budget:
    """An allowance, and what is spent of it.

    Args:
        whose: as errors name it, such as `task t1`.
        clock: seconds; monotonic, unless `period` counts from the epoch.
        period: seconds after which what is spent is forgotten, at multiples of it on the clock; None: never.

    Attributes:
        calls: begun.
        tokens: of calls that ended.
        cost: USD, of calls that ended and whose cost is known.
        unknown: calls that ended, and nobody can tell what they cost.
    """

    def __init__(
        self,
        whose: str,
        allowance: Allowance,
        clock: Callable[[], float],
        *,
        period: float | None = None,
    ) -> None:
        self.whose = whose
        self.allowance = allowance
        self._clock = clock
        self._period = period
        self._began = clock()
        self._clear()

    def _clear(self) -> None:
        self.calls = self.tokens = self.unknown = 0
        self.cost = Decimal(0)

    def seconds_left(self) -> float | None:
        """Until `seconds` are over; None where they are not limited."""
        seconds = self.allowance.seconds
        return None if seconds is None else seconds - (self._clock() - self._began)

    def check(self, model: str, *, priced: bool) -> None:
        """BudgetExhausted where no call of this model may begin."""
        self._roll()
        limits = self.allowance
        if limits.cost is not None and not priced and not limits.unpriced:
            raise BudgetExhausted(
                f"model {model!r} has no price, and {self.whose} has a limit of ${limits.cost:g}: give"
                " it a price, or allow unpriced models"
            )
        self._within("calls", limits.calls, self.calls)
        self._within("tokens", limits.tokens, self.tokens)
        # A limit is what somebody wrote: 0.1 is a tenth.
        self._within("USD", None if limits.cost is None else Decimal(repr(limits.cost)), self.cost)
        left = self.seconds_left()
        if left is not None and left <= 0:
            raise self.late()

    def _within(self, what: str, limit: int | Decimal | None, spent: int | Decimal) -> None:
        if limit is not None and spent >= limit:
            again = None if self._period is None else self._ends() - self._clock()
            raise BudgetExhausted(
                f"{self.whose} has spent its {limit} {what} ({spent})", retry_after=again
            )

    def late(self) -> BudgetExhausted:
        """What a call is told that is under way when the seconds are over."""
        return BudgetExhausted(f"{self.whose} has spent its {self.allowance.seconds:g} seconds")

    def count(self) -> None:
        """A call begins."""
        self.calls += 1

    def charge(self, tokens: int, cost: Decimal | None) -> None:
        """A call ended."""
        self._roll()
        self.tokens += tokens
        if cost is None:
            self.unknown += 1
        else:
            self.cost += cost

    def _ends(self) -> float:
        assert self._period is not None
        return (self._began // self._period + 1) * self._period

    def _roll(self) -> None:
        if self._period is not None and self._clock() >= self._ends():
            self._began = self._clock()
            self._clear()


class Charge:
    """A call that has begun, in each of its budgets."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._budgets = budgets
        self._ended = False

    def first_late(self) -> tuple[float, Budget] | None:
        """The seconds after which the call has to end, and whose they are; None for no limit."""
        lefts = [(each.seconds_left(), each) for each in self._budgets]
        limited = [(left, each) for left, each in lefts if left is not None]
        return min(limited, key=lambda pair: pair[0], default=None)

    def end(self, usage: Usage | None, cost: Decimal | None) -> None:
        """The call ended, however; what it took counts once."""
        if self._ended:
            return
        self._ended = True
        tokens = 0 if usage is None else usage.prompt_tokens + usage.completion_tokens
        for budget in self._budgets:
            budget.charge(tokens, cost)


def begin(
    budgets: Sequence[Budget], model: str, *, priced: bool, rate: Rate | None = None
) -> Charge:
    """Begin a call in all of its budgets, and in none where one of them refuses.

    Raises:
        BudgetExhausted: one of them is spent.
        ResourceExhausted: calls begin too fast.
    """
    for budget in budgets:
        budget.check(model, priced=priced)
    if rate is not None:
        rate.take()
    for budget in budgets:
        budget.count()
    return Charge(budgets)
