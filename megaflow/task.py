"""Tasks as one submits them, and what becomes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from megaflow.errors import InvalidArgument
from megaflow.keeping import Keep
from megaflow.protocol import megaflow_pb2 as pb

__all__ = [
    "ActiveTask",
    "Amount",
    "Failure",
    "JobStatus",
    "Limits",
    "Resources",
    "Result",
    "Task",
    "TaskEvent",
    "TaskStatus",
]

Mode = Literal["auto", "ephemeral", "persistent"]


@dataclass(frozen=True)
class Limits:
    """How long a task may take, in seconds; None is no limit. Each is the reason of the failure that it leads to.

    Attributes:
        schedule_to_start: in the queue, each time.
        start_to_close: one attempt.
        schedule_to_close: from submission on, retries included.
    """

    schedule_to_start: float | None = None
    start_to_close: float | None = None
    schedule_to_close: float | None = None


@dataclass(frozen=True)
class Amount:
    """Cores and bytes; 0 is nothing in particular."""

    cpu: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Resources:
    """What is set aside for a task (`requests`), and what it may use at most (`limits`)."""

    requests: Amount = Amount()
    limits: Amount = Amount()


@dataclass(frozen=True)
class Task:
    """Environment, agent and models: the unit that is scheduled.

    Attributes:
        env: an id that the server serves.
        agent: who acts.
        models: the model of each role; only "policy" is trained on.
        env_kwargs, agent_kwargs: what JSON takes.
        seed: those of its samples follow from it; None: from the job's seed and its place there.
        priority: the highest goes first, among the tasks of a tenant.
        group: None: the samples of a task are one.
        idempotency_key: of all tasks of a tenant that carry the same one is made; another task under it is refused.
        mode: whether its environment's sandboxes are made for it and end with it ("ephemeral"), or serve others, reset
            and verified ("persistent"); "auto": as their template says, by default whichever is measured to be quicker.
        keep: whether its environment's sandbox outlives the attempt for a day, so that `megaflow shell TASK` shows it:
            "none", "all", or where it "failed": without a valid result, by the agent's own failure, or with a reward of
            0 or less.
        snapshot: whether a snapshot of its environment is kept for a day, as it was before it was evaluated, for
            `megaflow rescore`.
        rescores: ids of jobs. Nobody acts then: its environment goes on from the snapshot of the same task and sample
            of the first of them that has one, and is evaluated.
    """

    env: str
    agent: str
    models: Mapping[str, str] = field(default_factory=dict)
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    agent_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    limits: Limits = Limits()
    resources: Resources = Resources()
    priority: int = 0
    group: str | None = None
    idempotency_key: str | None = None
    mode: Mode = "auto"
    keep: Keep = "none"
    snapshot: bool = False
    rescores: Sequence[str] = ()

    def message(self, index: int, sample: int, samples: int) -> pb.NewTask:
        """As it is sent: one of its samples, at a place of a job. Raises InvalidArgument, naming the field."""
        field_ = f"tasks[{index}]"
        key = self.idempotency_key or ""
        try:
            return pb.NewTask(
                index=index,
                sample=sample,
                environment=self.env,
                env_kwargs=_json(f"{field_}.env_kwargs", self.env_kwargs),
                agent=self.agent,
                agent_kwargs=_json(f"{field_}.agent_kwargs", self.agent_kwargs),
                models=dict(self.models),
                group=str(index) if self.group is None and samples > 1 else self.group or "",
                priority=self.priority,
                seed=self.seed,
                idempotency_key=f"{key}#{sample}" if key and sample else key,
                mode=self.mode,
                keep=self.keep,
                snapshot=self.snapshot,
                rescores=self.rescores,
                limits=_limits(f"{field_}.limits", self.limits),
                requests=_amount(f"{field_}.resources.requests", self.resources.requests),
                most=_amount(f"{field_}.resources.limits", self.resources.limits),
            )
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{field_}: {error}") from error


def _json(field_: str, kwargs: Mapping[str, Any]) -> str:
    if not kwargs:
        return ""
    try:
        return json.dumps(dict(kwargs), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"{field_}: {error}; tasks outlive their process, so their arguments are JSON"
        ) from error


def _limits(field_: str, limits: Limits) -> pb.TaskLimits:
    for name in ("schedule_to_start", "start_to_close", "schedule_to_close"):
        seconds = getattr(limits, name)
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise InvalidArgument(
                f"{field_}.{name}={seconds!r}: give seconds above 0, or None for no limit"
            )
    return pb.TaskLimits(
        schedule_to_start=limits.schedule_to_start,
        start_to_close=limits.start_to_close,
        schedule_to_close=limits.schedule_to_close,
    )


def _amount(field_: str, amount: Amount) -> pb.Amount:
    for name in ("cpu", "memory"):
        value = getattr(amount, name)
        if not (math.isfinite(value) and value >= 0):
            raise InvalidArgument(f"{field_}.{name}={value!r}: give a number from 0")
    return pb.Amount(cpu=amount.cpu, memory=amount.memory)


@dataclass(frozen=True)
class Failure:
    """Why something did not go as it should.

    Attributes:
        kind: whose failure it was: infrastructure, worker_died, runner_lost, environment, verifier, model, timeout,
            cancelled or agent.
        phase: the state of the task in which it happened.
        reason: one sentence.
        log: the last lines of the log that says most.
    """

    kind: str
    phase: str
    reason: str
    log: str = field(default="", repr=False)


@dataclass(frozen=True)
class Result:
    """What became of one sample of a task.

    Attributes:
        task_id: JOB/INDEX, or JOB/INDEX.SAMPLE.
        index: of the task, as it was submitted.
        sample: which of its samples.
        state: succeeded, failed, cancelled or quarantined.
        valid: whether the reward says something about agent and model. Infrastructure that failed is never a reward
            of 0: the reward is None then.
        reward: the headline of `rewards`.
        trajectory: where what happened is written down.
        retries: attempts that infrastructure spoilt.
        done: its place in the order in which the job's tasks ended, from 1: see `Job.results`.
        cost: USD of the calls of models of all its attempts; None where it named none, or nobody can tell.
        known_cost: of those calls whose cost is known.
    """

    task_id: str
    index: int
    sample: int
    group: str
    state: str
    valid: bool
    reward: float | None
    rewards: Mapping[str, float]
    failure: Failure | None
    trajectory: str
    seed: int
    retries: int
    done: int
    cost: float | None = None
    known_cost: float = 0.0

    @staticmethod
    def of(message: pb.TaskResult) -> Result:
        outcome = message.outcome
        return Result(
            task_id=message.task_id,
            index=message.index,
            sample=message.sample,
            group=message.group,
            state=message.state,
            valid=outcome.valid,
            reward=outcome.reward if outcome.HasField("reward") else None,
            rewards=dict(outcome.rewards),
            failure=_failure(outcome),
            trajectory=outcome.trajectory,
            seed=message.seed,
            retries=message.retries,
            done=message.done,
            cost=_cost(message.cost) if message.HasField("cost") else None,
            known_cost=message.cost.known,
        )


def _cost(cost: pb.Cost) -> float | None:
    return None if cost.unknown else cost.known


def _failure(outcome: pb.Outcome) -> Failure | None:
    if not outcome.HasField("failure"):
        return None
    failure = outcome.failure
    return Failure(failure.kind, failure.phase, failure.reason, failure.log)


@dataclass(frozen=True)
class ActiveTask:
    """A task that a runner has, for so many seconds."""

    id: str
    index: int
    sample: int
    state: str
    seconds: float


@dataclass(frozen=True)
class JobStatus:
    """How far a job is.

    Attributes:
        total: tasks, samples included; final once it is `sealed`.
        done: how many have ended.
        states: how many are in each state.
        active: those that runners have had for longest, the longest first; a few, and none in lists of jobs.
        cost: USD of the calls of models of all its attempts that have ended; None where nobody can tell.
        known_cost: of those calls whose cost is known.
        max_cost: from which on no more attempts begin; None: no limit.
    """

    id: str
    name: str
    submitted: datetime
    total: int
    done: int
    sealed: bool
    cancelled: bool
    seed: int
    states: Mapping[str, int]
    active: tuple[ActiveTask, ...] = ()
    cost: float | None = None
    known_cost: float = 0.0
    max_cost: float | None = None

    @property
    def spent(self) -> bool:
        """Whether it has cost what it may: its tasks that had not begun were cancelled."""
        return self.max_cost is not None and self.known_cost >= self.max_cost

    @property
    def complete(self) -> bool:
        """Whether all of it has ended, and no more comes."""
        return self.sealed and self.done >= self.total

    @staticmethod
    def of(message: pb.JobStatus) -> JobStatus:
        return JobStatus(
            id=message.job_id,
            name=message.name,
            submitted=datetime.fromtimestamp(message.submitted, UTC),
            total=message.total,
            done=message.done,
            sealed=message.sealed,
            cancelled=message.cancelled,
            seed=message.seed,
            states=dict(message.states),
            active=tuple(
                ActiveTask(one.task_id, one.index, one.sample, one.state, one.seconds)
                for one in message.active
            ),
            cost=_cost(message.cost),
            known_cost=message.cost.known,
            max_cost=message.max_cost if message.HasField("max_cost") else None,
        )


@dataclass(frozen=True)
class TaskEvent:
    """One transition of a task, in its attempt `fence`; `before` is "" for the first."""

    at: datetime
    fence: int
    before: str
    after: str
    reason: str


@dataclass(frozen=True)
class TaskStatus:
    """Where a task is, and why.

    Attributes:
        reason: of its last transition.
        waits_for: what it waits for, a sentence each, what keeps it longest first.
        events: how it came there, oldest first.
        trajectory: where what happened is written down, once it has ended.
    """

    id: str
    job_id: str
    state: str
    reason: str
    waits_for: tuple[str, ...]
    events: tuple[TaskEvent, ...]
    failure: Failure | None
    trajectory: str = ""

    @staticmethod
    def of(message: pb.TaskStatus) -> TaskStatus:
        return TaskStatus(
            id=message.task_id,
            job_id=message.job_id,
            state=message.state,
            reason=message.reason,
            waits_for=tuple(message.waits_for),
            events=tuple(
                TaskEvent(
                    datetime.fromtimestamp(event.at, UTC),
                    event.fence,
                    event.before,
                    event.after,
                    event.reason,
                )
                for event in message.events
            ),
            failure=_failure(message.outcome),
            trajectory=message.outcome.trajectory,
        )
