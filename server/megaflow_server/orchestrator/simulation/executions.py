"""One attempt, as a runner executes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megaflow_server.orchestrator.commands import Advance, Finish
from megaflow_server.orchestrator.records import Failure, FailureKind, Outcome, Resources
from megaflow_server.orchestrator.simulation.truth import Executing

if TYPE_CHECKING:
    from megaflow_server.orchestrator.simulation.fleet import Runner

__all__ = ["Execution"]

_CANCELLED = Outcome(
    False, failure=Failure(FailureKind.CANCELLED, "running", "its runner was told to stop")
)


class Execution:
    """Starts, runs, is evaluated, and is reported until somebody has heard it."""

    def __init__(self, runner: Runner, task: str, fence: int, tenant: str) -> None:
        self._runner = runner
        self._key = (task, fence)
        self._entry = Executing(task, fence, tenant, runner.id)
        self._executing = False
        self._over = False  # nothing is executed any more, the end is being reported

    def begin(self) -> None:
        plan = self._runner.planner.plan(*self._key)
        self.resume()
        self._runner.later(plan.starts, lambda: self._advance(False))
        self._runner.later(plan.starts + plan.runs, lambda: self._advance(True))
        whole = plan.starts + plan.runs + plan.evaluates
        self._runner.later(whole, lambda: self._end(plan.outcome))

    def cancel(self) -> None:
        self._end(_CANCELLED)

    def suspend(self) -> None:
        """Nothing of it is executed, for now or for ever."""
        if self._executing:
            self._executing = False
            self._runner.truth.end(self._entry, self._runner.world.now)

    def resume(self) -> None:
        if not self._executing and not self._over:
            self._executing = True
            self._runner.truth.begin(self._entry)

    def _advance(self, evaluating: bool) -> None:
        if self._over:
            return

        def answered(wanted: Any) -> None:
            if wanted is not True and not self._over:
                self.cancel()

        command = Advance(*self._key, evaluating, worker=f"{self._runner.id}-worker")
        self._runner.ask(command, answered, lambda: not self._over)

    def _end(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        self.suspend()

        # Some use less than they request, and some more; not all of them are measured.
        fence = self._key[1]
        peak = Resources(1, 0.4 * fence, fence << 29) if fence % 3 else None
        command = Finish(*self._key, outcome, peak)

        def answered(answer: Any) -> None:
            self._runner.told(command, answer)
            self._runner.ended(*self._key)

        self._runner.ask(command, answered)
