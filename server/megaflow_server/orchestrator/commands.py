"""Everything that can be asked of the orchestrator, each with its answer. `handlers` says what each does.

Whatever may arrive twice is safe to repeat: it carries an id that its sender chose, or a fence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from megaflow_server.orchestrator.records import (
    FOREVER,
    Job,
    ManifestPart,
    Outcome,
    Resources,
    Task,
    Timeouts,
)

if TYPE_CHECKING:
    from megaflow_server.orchestrator.starts import Grant

__all__ = [
    "AddTasks",
    "Advance",
    "CancelJob",
    "CancelTask",
    "Claim",
    "Claimed",
    "Command",
    "CreateJob",
    "DrainRunner",
    "ExpireRunner",
    "Finish",
    "Finished",
    "NewTask",
    "PutManifest",
    "RegisterRunner",
    "Renew",
    "Renewed",
    "SealJob",
    "SetTenant",
    "StopJob",
    "Wake",
]


@dataclass(frozen=True, slots=True)
class SetTenant:
    """What the configuration says of a tenant."""

    name: str
    weight: float = 1.0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Begin a job; its id is chosen by the client, so that a repeat finds what the first one made."""

    id: str
    tenant: str
    seed: int
    name: str = ""
    deadline: float = FOREVER
    max_cost: float | None = None
    unpriced: bool = False


@dataclass(frozen=True, slots=True)
class NewTask:
    """One sample of a task, as submitted.

    Attributes:
        document: environment, agent, models and what they are given: JSON.
        key: makes one task of all that carry it, whatever their job.
        seed: its own, from which those of its samples follow; None: they follow from the job's.
        environment: tasks of the same one are measured together.
    """

    index: int
    document: str
    sample: int = 0
    group: str = ""
    priority: int = 0
    requests: Resources = field(default_factory=Resources)
    timeouts: Timeouts = field(default_factory=Timeouts)
    deadline: float = FOREVER
    key: str = ""
    seed: int | None = None
    environment: str = ""


@dataclass(frozen=True, slots=True)
class AddTasks:
    """Add tasks to a job, some of which may be there already. Answer: their ids."""

    job: str
    tenant: str
    tasks: tuple[NewTask, ...]


@dataclass(frozen=True, slots=True)
class SealJob:
    """No more tasks come."""

    job: str
    tenant: str


@dataclass(frozen=True, slots=True)
class PutManifest:
    """Keep a part of what a job was made of, after those before it."""

    tenant: str
    content: ManifestPart


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Cancel up to `most` of a job's tasks. Answer: how many are left to cancel by a repeat, 0 or more."""

    job: str
    tenant: str
    reason: str = "cancelled"
    most: int = 1000


@dataclass(frozen=True, slots=True)
class StopJob:
    """Cancel up to `most` tasks that no runner has, of a job that has cost what it may. Answer: how many."""

    job: str
    most: int = 1000


@dataclass(frozen=True, slots=True)
class CancelTask:
    """Cancel a task; one that has ended stays as it is."""

    task: str
    tenant: str
    reason: str = "cancelled"


@dataclass(frozen=True, slots=True)
class RegisterRunner:
    """A runner begins, under an id that none had before it."""

    id: str
    capacity: Resources


@dataclass(frozen=True, slots=True)
class Renew:
    """A runner renews its lease. Answer: `Renewed`."""

    runner: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """Which of its attempts a runner is to stop, by task and fence."""

    revoked: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class DrainRunner:
    """A runner claims no more."""

    runner: str


@dataclass(frozen=True, slots=True)
class ExpireRunner:
    """A runner's lease has run out, as seen by a reaper: what it held is free.

    Attributes:
        renewals: as the reaper last saw them; a runner that has renewed since then is left alone.
        most: attempts at once. Answer: whether a repeat has more to do; until then the runner is lost, not gone.
    """

    runner: str
    renewals: int
    most: int = 1000


@dataclass(frozen=True, slots=True)
class Claim:
    """A runner has room. Answer: what it is to execute, a list of `Claimed`.

    Attributes:
        request: the runner's number of it, from 1, one more for each claim. The same again, because an answer may
            have been lost, is given the same again; one that arrives after a later one is given nothing.
        grant: what may start now, where that is limited.
    """

    runner: str
    most: int
    request: int
    grant: Grant | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A task of this job that a runner is to execute, under `task.fence`."""

    task: Task
    job: Job
    document: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Advance:
    """An attempt has come further: its environment is there (running), or its agent is done (evaluating).

    Answer: whether it is still wanted; where not, its runner stops it.
    """

    task: str
    fence: int
    evaluating: bool = False
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """An attempt has ended, and holds nothing any more. Answer: `Finished`.

    Attributes:
        peak: the most that it used, where that was measured; its slots say nothing.
    """

    task: str
    fence: int
    outcome: Outcome
    peak: Resources | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of an outcome: the task's own, or kept as superseded, for this reason.

    Attributes:
        spent: the id of its job, where that has cost what it may: see `StopJob`.
    """

    accepted: bool
    reason: str
    spent: str | None = None


@dataclass(frozen=True, slots=True)
class Wake:
    """Let happen what was due by now: retries, and limits. Answer: whether there was more than `most`."""

    most: int = 1000


Command: TypeAlias = (
    SetTenant
    | CreateJob
    | AddTasks
    | SealJob
    | PutManifest
    | CancelJob
    | CancelTask
    | StopJob
    | RegisterRunner
    | Renew
    | DrainRunner
    | ExpireRunner
    | Claim
    | Advance
    | Finish
    | Wake
)
