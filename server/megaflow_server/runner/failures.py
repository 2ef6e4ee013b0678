"""Whose failure it was: the one table that says which errors spoil an attempt, and as what.

| kind | what it means | the result | tried again |
|---|---|---|---|
| `infrastructure` | it could not start, or the server refused or was out of reach | invalid | yes |
| `worker_died` | the process, container or pod of its environment ended, for want of memory, too | invalid | yes |
| `runner_lost` | the server was restarted, or this runner was told to end | invalid | yes, at no cost |
| `environment` | it raised, hangs beyond a deadline, or the task cannot be begun as it is described | invalid | no |
| `verifier` | there is no verdict | invalid | no |
| `model` | the model's last answer did not come | invalid | no |
| `timeout` | the agent reached the attempt's time | evaluated | no |
| `agent` | the agent raised | evaluated | no |
| `cancelled` | somebody cancelled it, a newer attempt took its place, or its job has cost what it may | none | no |
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Final

from megaflow.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    EnvironmentFailed,
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    SessionLost,
)
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.trajectory import records

__all__ = [
    "EVALUATING",
    "LOG_LINES",
    "RUNNING",
    "STARTING",
    "Failed",
    "environments_own",
    "of_agent",
    "of_budget",
    "of_defect",
    "of_environment",
    "of_model",
]

STARTING: Final = "starting"
RUNNING: Final = "running"
EVALUATING: Final = "evaluating"

# How much of a log goes with a failure.
LOG_LINES: Final = 50
_LONGEST_REASON: Final = 2_000

_Rule = tuple[type[BaseException], tuple[str, ...], str]
# The first that fits counts.
_RULES: Final[tuple[_Rule, ...]] = (
    (SessionLost, (STARTING, RUNNING, EVALUATING), "worker_died"),
    (DeadlineExceeded, (STARTING,), "infrastructure"),
    (DeadlineExceeded, (RUNNING,), "environment"),
    (DeadlineExceeded, (EVALUATING,), "verifier"),
    (EnvironmentFailed, (STARTING, RUNNING), "environment"),
    (EnvironmentFailed, (EVALUATING,), "verifier"),
    # What a task asks for is not there, or is none.
    (NotFound, (STARTING, RUNNING), "environment"),
    (InvalidArgument, (STARTING, RUNNING), "environment"),
    (FailedPrecondition, (STARTING, RUNNING), "environment"),
    (NotFound, (EVALUATING,), "verifier"),
    (InvalidArgument, (EVALUATING,), "verifier"),
    (FailedPrecondition, (EVALUATING,), "verifier"),
    (MegaflowError, (STARTING, RUNNING, EVALUATING), "infrastructure"),
)


@dataclass(eq=False)
class Failed(Exception):
    """An attempt, or its agent, failed.

    Attributes:
        kind: as in the table above.
        phase: starting, running or evaluating.
        reason: for people.
        log: the last lines of the log that says most.
        valid: whether the attempt is evaluated as it stands.
    """

    kind: str
    phase: str
    reason: str
    log: str = ""
    valid: bool = False

    def message(self) -> pb.TaskFailure:
        return pb.TaskFailure(kind=self.kind, phase=self.phase, reason=self.reason, log=self.log)

    def record(self) -> records.Failure:
        return records.Failure(
            failure=self.kind,
            phase=self.phase,
            reason=self.reason,
            valid=self.valid,
            log_tail=self.log,
        )


def environments_own(error: Exception) -> MegaflowError | None:
    """What an environment's call failed with, the environment's own exceptions included; None where it is neither."""
    if isinstance(error, MegaflowError):
        return error
    # The environment's ValueError is one here, too, with the remote failure behind it.
    return error.__cause__ if isinstance(error.__cause__, EnvironmentFailed) else None


def of_environment(error: MegaflowError, phase: str, *, server_gone: bool = False) -> Failed:
    """What a call of the environment, or its opening, failed as.

    Args:
        server_gone: whether the server is another than the one that had the session, or none.
    """
    kind = next(
        kind for type_, phases, kind in _RULES if isinstance(error, type_) and phase in phases
    )
    if kind == "worker_died" and server_gone:
        kind = "runner_lost"
    log = ""
    if isinstance(error, EnvironmentFailed):
        log = _last_lines("\n".join(part for part in (error.log_tail, error.traceback) if part))
    return Failed(kind, phase, error.message[:_LONGEST_REASON], log)


def of_model(error: MegaflowError) -> Failed:
    """What a model that did not answer makes of the attempt."""
    return Failed("model", RUNNING, error.message[:_LONGEST_REASON])


def of_budget(error: BudgetExhausted) -> Failed:
    """What a job that has cost what it may makes of an attempt: what the agent could not ask says nothing of it."""
    return Failed("cancelled", RUNNING, f"max_cost: {error.message}"[:_LONGEST_REASON])


def of_agent(error: BaseException) -> Failed:
    """What an agent that raised makes of the attempt: a result, evaluated as it stands."""
    reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
    return Failed("agent", RUNNING, reason, _last_lines(_traceback(error)), valid=True)


def of_defect(error: BaseException, phase: str) -> Failed:
    """What a fault of the runner's own makes of the attempt."""
    reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
    return Failed("infrastructure", phase, reason, _last_lines(_traceback(error)))


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_LINES:])
