"""What a store keeps: jobs, tasks, attempts, runners, tenants and the events between them.

Times are seconds since the epoch, by the clock of whoever asked. Records are values: a change is a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = [
    "ACTIVE",
    "FOREVER",
    "HELD",
    "TERMINAL",
    "Attempt",
    "AttemptState",
    "Cost",
    "Event",
    "Failure",
    "FailureKind",
    "Job",
    "ManifestPart",
    "Outcome",
    "Peak",
    "Resources",
    "Runner",
    "RunnerState",
    "Task",
    "TaskState",
    "Tenant",
    "Timeouts",
]

FOREVER: Final = float("inf")


class TaskState(StrEnum):
    """Where a task is; `transitions.EDGES` says what follows what."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    EVALUATING = "evaluating"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"


ACTIVE: Final = frozenset({TaskState.STARTING, TaskState.RUNNING, TaskState.EVALUATING})
TERMINAL: Final = frozenset(
    {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.QUARANTINED}
)


class FailureKind(StrEnum):
    """Whose failure it was. Those of the agent are results, valid ones; every other kind makes a result invalid."""

    INFRASTRUCTURE = "infrastructure"
    WORKER_DIED = "worker_died"  # infrastructure, and possibly the task's own doing
    RUNNER_LOST = "runner_lost"  # infrastructure, and surely not the task's doing: a runner, a server, a drain
    ENVIRONMENT = "environment"
    VERIFIER = "verifier"
    MODEL = "model"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something did not go as it should.

    Attributes:
        phase: the state in which it happened.
        reason: one sentence for people.
        log: the last lines of the log that says most.
    """

    kind: FailureKind
    phase: str
    reason: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls of models cost.

    Attributes:
        known: USD of those whose cost is known.
        unknown: calls of which nobody can tell, and attempts that were lost with theirs.
    """

    known: float = 0.0
    unknown: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.known + other.known, self.unknown + other.unknown)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        valid: whether the reward says something about agent and model.
        reward: the headline; None where it is not valid.
        rewards: named ones.
        trajectory: where what happened is written down.
        cost: of its calls of models; None where it named none.
    """

    valid: bool
    reward: float | None = None
    rewards: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    failure: Failure | None = None
    trajectory: str = ""
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a task asks for, or a runner has: `slots` attempts, `cpu` cores, `memory` bytes."""

    slots: int = 1
    cpu: float = 0.0
    memory: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.slots + other.slots, self.cpu + other.cpu, self.memory + other.memory)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(self.slots - other.slots, self.cpu - other.cpu, self.memory - other.memory)

    def fits(self, room: Resources) -> bool:
        """Whether there is room for this."""
        # Sums of floats do not come back to exactly what they were.
        return (
            self.slots <= room.slots and self.cpu <= room.cpu + 1e-6 and self.memory <= room.memory
        )


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Temporal's, in seconds; None is no limit.

    Attributes:
        schedule_to_start: in the queue, each time.
        start_to_close: of one attempt.
        schedule_to_close: from submission on, retries included.
    """

    schedule_to_start: float | None = None
    start_to_close: float | None = None
    schedule_to_close: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One sample of a task: the unit that is scheduled.

    Attributes:
        id: unique in a store; `job` and `index` within it, and `sample`, are the same for ever.
        spec: which environment, agent and models: the key of a document that only runners read.
        order: of submission; the older of two of one priority goes first.
        fence: of its newest attempt, 0 before the first; only whoever holds it may write.
        environment: what it runs in; tasks of one are measured together. Empty where none is.
        retries: attempts that infrastructure spoilt.
        worker_deaths: of these, those in which the worker died while it ran this: of the first one others may have
            been the cause, since every later attempt has a worker of its own.
        due: when something happens to it by itself: a retry's time has come, or a limit is reached.
        not_before: a retry waits until then.
        submitted, queued, started: when; `queued` and `started` the last time.
        done: its place in the order in which its job's tasks ended, from 1; 0 until it has.
        outcome: once it has ended.
        reason: of its last transition.
        cost: of the attempts that have ended, whatever became of them; None where none named a model. One that was
            under way when the task ended is not known.
    """

    id: str
    job: str
    tenant: str
    index: int
    sample: int
    spec: str
    order: int
    seed: int
    submitted: float
    group: str = ""
    priority: int = 0
    requests: Resources = field(default_factory=Resources)
    timeouts: Timeouts = field(default_factory=Timeouts)
    deadline: float = FOREVER
    environment: str = ""
    state: TaskState = TaskState.QUEUED
    reason: str = "submitted"
    fence: int = 0
    retries: int = 0
    worker_deaths: int = 0
    due: float = FOREVER
    not_before: float = 0.0
    queued: float = 0.0
    started: float = 0.0
    done: int = 0
    outcome: Outcome | None = None
    cost: Cost | None = None

    @property
    def suspect(self) -> bool:
        """Whether a worker died while it ran this, so that it is tried apart from others."""
        return self.worker_deaths > 0


class AttemptState(StrEnum):
    """An open attempt holds its runner's room and its tenant's quota, whatever became of its task."""

    OPEN = "open"
    REVOKED = "revoked"  # open still: its runner is to stop it
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a task by a runner.

    Attributes:
        requests: what it holds of its runner: its task's, corrected with what was measured.
        claim: the number of its runner's claim that it was given for.
        alone: whether its environment gets a worker of its own.
        worker: the process, container or pod that its environment ran in, as far as is known.
        accepted: whether its outcome became the task's; a late one is kept and is not.
    """

    task: str
    fence: int
    tenant: str
    runner: str
    requests: Resources
    opened: float
    claim: int = 0
    alone: bool = False
    state: AttemptState = AttemptState.OPEN
    worker: str = ""
    closed: float = 0.0
    accepted: bool = False
    outcome: Outcome | None = None


class RunnerState(StrEnum):
    """Only an active runner claims. One whose lease has run out is lost, and gone once nothing is held in its name."""

    ACTIVE = "active"
    DRAINING = "draining"
    LOST = "lost"
    GONE = "gone"


HELD: Final = frozenset({RunnerState.ACTIVE, RunnerState.DRAINING})  # by a lease


@dataclass(frozen=True, slots=True)
class Runner:
    """A process that executes attempts, held by one lease.

    Attributes:
        renewals: how often its lease was renewed. No time: who judges a lease sees with a clock of its own
            for how long this number has stood still, so that clocks need not agree, nor stay right.
        claims: the number of its last claim.
    """

    id: str
    capacity: Resources
    used: Resources = field(default_factory=lambda: Resources(slots=0))
    renewals: int = 0
    claims: int = 0
    state: RunnerState = RunnerState.ACTIVE


@dataclass(frozen=True, slots=True)
class Job:
    """Tasks submitted together.

    Attributes:
        total: how many tasks were added; final once it is sealed.
        done: how many have ended.
        retry_tokens, retry_at: the budget of retries, as of then; see `retries`.
        max_cost: USD that calls of models may cost; no attempt begins from there on. None: no limit.
        unpriced: whether models without a price may be called all the same.
        known_cost, unknown_costs: of the attempts that have ended; see `Cost`.
    """

    id: str
    tenant: str
    seed: int
    submitted: float
    name: str = ""
    deadline: float = FOREVER
    total: int = 0
    done: int = 0
    sealed: bool = False
    cancelled: bool = False
    retry_tokens: float = 0.0
    retry_at: float = 0.0
    max_cost: float | None = None
    unpriced: bool = False
    known_cost: float = 0.0
    unknown_costs: int = 0

    @property
    def spent(self) -> str | None:
        """Why no more of its attempts begin, where its calls have cost what they may; else None."""
        if self.max_cost is None or self.known_cost < self.max_cost:
            return None
        return f"max_cost: the job may cost ${self.max_cost:g}, and has cost ${self.known_cost:.6g}"


@dataclass(frozen=True, slots=True)
class ManifestPart:
    """A part, from 0, of so many parts of what a client says that its job was made of."""

    job: str
    part: int
    parts: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who a quota and a fair share belong to.

    Attributes:
        weight: its share of what runs, beside the others'.
        most: how many attempts it may have open at once; None is no limit.
        running: how many it has.
        served: when one of its tasks was claimed last, as a count of claims: the tie-breaker.
    """

    name: str
    weight: float = 1.0
    most: int | None = None
    running: int = 0
    served: int = 0


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that attempts of a tenant in one environment used, as far as they were measured; see `packing`."""

    tenant: str
    environment: str
    count: int = 0
    cpu: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One transition of a task."""

    task: str
    fence: int
    at: float
    before: TaskState | None
    after: TaskState
    reason: str
