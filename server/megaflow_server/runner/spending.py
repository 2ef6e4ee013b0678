"""What attempts spend on calls of models, and what is left of what their job may cost.

A runner knows what its own attempts have spent to the call. What those of other runners have, it is told when it
claims, as far as they had ended by then: so a job passes its limit by the calls that are under way, and by what
attempts of other runners have spent that are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from decimal import Decimal

from megaflow.calls import Allowance, Budget
from megaflow.errors import BudgetExhausted
from megaflow.protocol import megaflow_pb2 as pb

__all__ = ["AttemptSpending", "JobBudgets"]


class _Job:
    """A job's budget, which all of its attempts in this runner share."""

    def __init__(self, name: str, told: pb.JobBudget, clock: Callable[[], float]) -> None:
        allowance = Allowance(cost=told.max_cost, unpriced=told.unpriced)
        self.budget = Budget(f"job {name}", allowance, clock)
        self.running: set[Budget] = set()
        self._others = Decimal(0)

    def told(self, spent: float) -> None:
        """The job's attempts that have ended have spent so much, in whichever runner.

        Those that run here are none of these. One that has just ended may be: what is told never counts it twice.
        """
        running = sum((each.cost for each in self.running), Decimal(0))
        here = self.budget.cost - self._others
        others = max(self._others, Decimal(repr(spent)) + running - here)
        self.budget.cost += others - self._others
        self._others = others


class AttemptSpending:
    """What one attempt spends.

    Attributes:
        budgets: that its calls count in.
    """

    def __init__(self, own: Budget, job: _Job | None) -> None:
        self._own = own
        self._job = job
        self.budgets: Sequence[Budget] = (own,) if job is None else (own, job.budget)
        if job is not None:
            job.running.add(own)

    @property
    def needs_prices(self) -> bool:
        """Whether models without a price may not be called."""
        if self._job is None:
            return False
        return not self._job.budget.allowance.unpriced

    def over(self) -> str | None:
        """Why it is not to begin; None where it is."""
        if self._job is None:
            return None
        try:
            self._job.budget.check("", priced=True)
        except BudgetExhausted as error:
            return f"max_cost: {error.message}"
        return None

    def cost(self) -> pb.Cost:
        """Of its calls that have ended."""
        return pb.Cost(known=float(self._own.cost), unknown=self._own.unknown)

    def end(self) -> None:
        """It has ended."""
        if self._job is not None:
            self._job.running.discard(self._own)


class JobBudgets:
    """The budgets of all jobs that a runner has attempts of.

    Args:
        clock: seconds; monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[str, _Job] = {}

    def begin(self, attempt: pb.Attempt) -> AttemptSpending:
        """Of an attempt that was just claimed."""
        own = Budget(f"attempt {attempt.task_id}", Allowance(), self._clock)
        if not attempt.HasField("budget"):
            return AttemptSpending(own, None)
        name = attempt.task_id.partition("/")[0]
        if name not in self._jobs:
            self._jobs[name] = _Job(name, attempt.budget, self._clock)
        job = self._jobs[name]
        job.told(attempt.budget.spent)
        return AttemptSpending(own, job)
