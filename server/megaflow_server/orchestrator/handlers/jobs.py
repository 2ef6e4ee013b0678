"""What a client asks for: jobs and their tasks, and their cancellation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow_server.orchestrator.changing import changed
from megaflow_server.orchestrator.commands import (
    AddTasks,
    CancelJob,
    CancelTask,
    CreateJob,
    NewTask,
    PutManifest,
    SealJob,
    SetTenant,
    StopJob,
)
from megaflow_server.orchestrator.handlers.ending import cost_cut_off, end, revoke
from megaflow_server.orchestrator.records import (
    ACTIVE,
    TERMINAL,
    Event,
    Failure,
    FailureKind,
    Job,
    Outcome,
    Task,
    TaskState,
    Tenant,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.seeds import seed_of
from megaflow_server.orchestrator.store.base import Transaction
from megaflow_server.orchestrator.transitions import due

__all__ = [
    "add",
    "cancel",
    "cancel_job",
    "cancel_task",
    "create",
    "digest_of",
    "put_manifest",
    "seal",
    "set_tenant",
    "stop_job",
    "task_id",
]


# What a job keeps of its creation.
_SAME = ("tenant", "seed", "name", "deadline", "max_cost", "unpriced")


def set_tenant(command: SetTenant, tx: Transaction, now: float, _policy: RetryPolicy) -> None:
    if not (math.isfinite(command.weight) and command.weight > 0):
        raise InvalidArgument(
            f"weight={command.weight!r} of tenant {command.name!r}: takes a number above 0"
        )
    known = tx.tenant(command.name) or Tenant(command.name)
    tx.put_tenant(changed(known, weight=command.weight, most=command.most))


def create(command: CreateJob, tx: Transaction, now: float, _policy: RetryPolicy) -> None:
    known = tx.job(command.id)
    if known is None:
        tx.put_job(
            Job(
                command.id,
                command.tenant,
                command.seed,
                now,
                command.name,
                command.deadline,
                max_cost=command.max_cost,
                unpriced=command.unpriced,
            )
        )
        if tx.tenant(command.tenant) is None:
            tx.put_tenant(Tenant(command.tenant))
    elif any(getattr(known, name) != getattr(command, name) for name in _SAME):
        raise FailedPrecondition(f"job={command.id!r} exists, and is another one: choose a new id")


def task_id(job: str, asked: NewTask) -> str:
    """The id of a task of a job, for ever."""
    return f"{job}/{asked.index}" + (f".{asked.sample}" if asked.sample else "")


def add(command: AddTasks, tx: Transaction, now: float, _policy: RetryPolicy) -> list[str]:
    job = _job(tx, command.job, command.tenant)
    ids: list[str] = []
    new: dict[str, NewTask] = {}
    keyed: dict[str, tuple[str, str]] = {}  # of those that are new, by idempotency key
    for asked in command.tasks:
        name = task_id(job.id, asked)
        made = _by_key(tx, job, asked, name, keyed) or _by_id(tx, asked, name, new)
        ids.append(made or name)
        if made is None:
            if job.sealed:
                raise FailedPrecondition(
                    f"job={job.id!r} takes no more tasks: it is sealed or cancelled"
                )
            new[name] = asked
            keyed[asked.key] = (name, _digest(asked))
    tasks = [
        _new(tx, job, one, name, job.total + place, now)
        for place, (name, one) in enumerate(new.items())
    ]
    tx.add_tasks(tasks)
    tx.put_job(changed(job, total=job.total + len(tasks)))
    return ids


def _by_key(
    tx: Transaction, job: Job, asked: NewTask, name: str, keyed: Mapping[str, tuple[str, str]]
) -> str | None:
    """The task that was made for this idempotency key, if one was; FailedPrecondition where it was another."""
    made = (keyed.get(asked.key) or tx.submission(job.tenant, asked.key)) if asked.key else None
    if made is not None and made[1] != _digest(asked):
        raise FailedPrecondition(
            f"idempotency_key={asked.key!r} of task {name} was used for another task, {made[0]}: "
            "take a new key for a new task"
        )
    return None if made is None else made[0]


def _by_id(tx: Transaction, asked: NewTask, name: str, new: Mapping[str, NewTask]) -> str | None:
    """The task that stands at this place of its job, if one does; FailedPrecondition where it is another."""
    known = tx.task(name)
    spec = (
        digest_of(new[name].document) if name in new else known.spec if known is not None else None
    )
    if spec is not None and spec != digest_of(asked.document):
        raise FailedPrecondition(f"task {name} exists, and is another one: number tasks apart")
    return None if spec is None else name


def _new(tx: Transaction, job: Job, asked: NewTask, name: str, order: int, now: float) -> Task:
    spec = digest_of(asked.document)
    tx.put_spec(spec, asked.document)
    if asked.key:
        tx.put_submission(job.tenant, asked.key, name, _digest(asked))
    task = Task(
        id=name,
        job=job.id,
        tenant=job.tenant,
        index=asked.index,
        sample=asked.sample,
        spec=spec,
        order=order,
        seed=(
            seed_of(job.seed, asked.index, asked.sample)
            if asked.seed is None
            else seed_of(asked.seed, 0, asked.sample)
        ),
        submitted=now,
        queued=now,
        group=asked.group,
        priority=asked.priority,
        requests=asked.requests,
        timeouts=asked.timeouts,
        deadline=min(asked.deadline, job.deadline),
        environment=asked.environment,
    )
    tx.add_event(Event(name, 0, now, None, TaskState.QUEUED, task.reason))
    return changed(task, due=due(task))


def seal(command: SealJob, tx: Transaction, now: float, _policy: RetryPolicy) -> None:
    tx.put_job(changed(_job(tx, command.job, command.tenant), sealed=True))


def put_manifest(command: PutManifest, tx: Transaction, now: float, _policy: RetryPolicy) -> None:
    content = command.content
    job = _job(tx, content.job, command.tenant)
    known = tx.manifest(job.id, content.part)
    if known == content:
        return
    before = tx.manifest(job.id, content.part - 1) if content.part else None
    if content.part and (before is None or before.parts != content.parts):
        raise FailedPrecondition(
            f"part={content.part}: part {content.part - 1} of {content.parts} of the manifest of job {job.id!r} is "
            "not there: put them in order"
        )
    if known is not None:
        raise FailedPrecondition(
            f"part={content.part}: job={job.id!r} has a manifest, and it stays as it is"
        )
    tx.put_manifest(content)


def cancel_job(command: CancelJob, tx: Transaction, now: float, _policy: RetryPolicy) -> int:
    job = _job(tx, command.job, command.tenant)
    # Whoever was adding tasks to it may never come back: that no more come is certain from here on.
    tx.put_job(changed(job, cancelled=True, sealed=True))
    for task in tx.unfinished(job.id, command.most):
        cancel(tx, task, command.reason, now)
    job = _job(tx, command.job, command.tenant)
    return job.total - job.done


def stop_job(command: StopJob, tx: Transaction, now: float, _policy: RetryPolicy) -> int:
    job = tx.job(command.job)
    if job is None or (why := job.spent) is None:
        return 0
    waiting = [task for task in tx.unfinished(job.id, command.most) if task.state not in ACTIVE]
    for task in waiting:
        cancel(tx, task, why, now)
    return len(waiting)


def cancel_task(command: CancelTask, tx: Transaction, now: float, _policy: RetryPolicy) -> None:
    task = tx.task(command.task)
    if task is None or task.tenant != command.tenant:
        raise NotFound(f"task={command.task!r}: there is no such task")
    if task.state not in TERMINAL:
        cancel(tx, task, command.reason, now)


def cancel(tx: Transaction, task: Task, reason: str, now: float) -> None:
    """End a task that has not ended, and have its attempt stopped."""
    revoke(tx, task)
    failure = Failure(FailureKind.CANCELLED, task.state, reason)
    outcome = Outcome(False, failure=failure)
    end(tx, task, TaskState.CANCELLED, outcome, now, cost=cost_cut_off(task))


def _job(tx: Transaction, name: str, tenant: str) -> Job:
    job = tx.job(name)
    if job is None or job.tenant != tenant:
        raise NotFound(f"job={name!r}: there is no such job")
    return job


def digest_of(document: str) -> str:
    """The key under which a document is kept, once."""
    return hashlib.sha256(document.encode()).hexdigest()


def _digest(asked: NewTask) -> str:
    """Of everything that makes it the same task, wherever it stands in a job."""
    said = (
        asked.document,
        asked.group,
        asked.priority,
        asked.requests,
        asked.timeouts,
        asked.deadline,
        asked.seed,
    )
    return digest_of(repr(said))
