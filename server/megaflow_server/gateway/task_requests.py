"""What clients ask of the orchestrator, checked and as its commands."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

from megaflow.errors import InvalidArgument, NotFound
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.task_documents import document_of, label
from megaflow_server.orchestrator.commands import CreateJob, NewTask, PutManifest
from megaflow_server.orchestrator.records import FOREVER, ManifestPart, Resources, Timeouts

# A job's tasks, samples included.
MOST_TASKS: Final = 1_000_000
# Tasks in one call: so few that none waits long for a transaction of others'.
MOST_AT_ONCE: Final = 1000

_JOB: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Of a manifest.
_MOST_PARTS: Final = 64
_LARGEST_PART: Final = 2**20
# A hundred years: what is longer is no limit.
_LONGEST: Final = 100 * 365.25 * 86400
_MOST_PRIORITY: Final = 1000
_BYTES: Final = 2**60


def create_job(request: pb.CreateJobRequest, tenant: str, now: float) -> CreateJob:
    """Raises InvalidArgument."""
    if not _JOB.fullmatch(request.job_id):
        raise InvalidArgument(
            f"job_id={request.job_id!r}: give 1 to 64 letters, digits, '.', '_' and '-', beginning with a "
            "letter or digit"
        )
    if request.tasks > MOST_TASKS:
        raise InvalidArgument(f"tasks: {request.tasks}, and a job has at most {MOST_TASKS:,}")
    label("name", request.name)
    deadline = FOREVER
    if request.HasField("deadline_s"):
        deadline = now + _seconds("deadline_s", request.deadline_s)
    max_cost = request.max_cost if request.HasField("max_cost") else None
    if max_cost is not None and not (math.isfinite(max_cost) and max_cost > 0):
        raise InvalidArgument(f"max_cost={max_cost!r}: give USD above 0, or nothing for no limit")
    if request.unpriced and max_cost is None:
        raise InvalidArgument(
            "unpriced: says what may be called at a limited cost, and this one is not: give max_cost, or leave it out"
        )
    return CreateJob(
        request.job_id,
        tenant,
        request.seed & (2**63 - 1),
        request.name,
        deadline,
        max_cost,
        request.unpriced,
    )


def put_manifest(request: pb.PutManifestRequest, job: str, tenant: str) -> PutManifest:
    """Raises InvalidArgument."""
    content = request.content
    if not 0 <= request.part < content.parts <= _MOST_PARTS:
        raise InvalidArgument(
            f"part={request.part} of {content.parts}: a manifest has 1 to {_MOST_PARTS} parts, counted from 0"
        )
    if len(content.data) > _LARGEST_PART:
        raise InvalidArgument(
            f"content.data: {len(content.data)} bytes, over {_LARGEST_PART} in one part"
        )
    return PutManifest(tenant, ManifestPart(job, request.part, content.parts, content.data))


class Catalogue:
    """The environments that are served.

    Args:
        ids: of the registry.
        imports: whether `module:name` is taken as well.
    """

    def __init__(self, ids: Collection[str], imports: bool) -> None:
        self._ids = frozenset(ids)
        self._imports = imports

    def check(self, field: str, name: str) -> None:
        """Raises NotFound for what nobody serves; says what comes close."""
        if name in self._ids:
            return
        if ":" in name and self._imports:
            return
        if ":" in name:
            raise InvalidArgument(
                f"{field}={name!r} names a module, and this server imports none for clients: have it started "
                "with --allow-import, or with --import and give the id"
            )
        close = get_close_matches(name, self._ids, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `megaflow envs list`"
        raise NotFound(f"{field}={name!r}: nobody serves it; {hint}")


def new_tasks(request: pb.AddTasksRequest, catalogue: Catalogue) -> tuple[NewTask, ...]:
    """The tasks of a request. Raises InvalidArgument and NotFound, which name the field."""
    if len(request.tasks) > MOST_AT_ONCE:
        raise InvalidArgument(
            f"tasks: {len(request.tasks)} in one call, over {MOST_AT_ONCE}: add them in several"
        )
    return tuple(new_task(task, f"tasks[{task.index}]", catalogue) for task in request.tasks)


def new_task(task: pb.NewTask, field: str, catalogue: Catalogue) -> NewTask:
    """One task. Raises as `new_tasks`."""
    if task.index >= MOST_TASKS or task.sample >= MOST_TASKS:
        raise InvalidArgument(
            f"{field}: index={task.index}, sample={task.sample}: a job has at most {MOST_TASKS:,} tasks"
        )
    label(f"{field}.env", task.environment)
    catalogue.check(f"{field}.env", task.environment)
    if not label(f"{field}.agent", task.agent):
        raise InvalidArgument(f"{field}.agent is empty: say who acts")
    if not -_MOST_PRIORITY <= task.priority <= _MOST_PRIORITY:
        raise InvalidArgument(
            f"{field}.priority={task.priority}: give {-_MOST_PRIORITY} to {_MOST_PRIORITY}"
        )
    requests = amount(f"{field}.resources.requests", task.requests)
    most = amount(f"{field}.resources.limits", task.most)
    _check_within(field, requests, most)
    return NewTask(
        index=task.index,
        sample=task.sample,
        document=document_of(task, field),
        group=label(f"{field}.group", task.group),
        priority=task.priority,
        requests=requests,
        timeouts=_timeouts(f"{field}.limits", task.limits),
        key=label(f"{field}.idempotency_key", task.idempotency_key),
        seed=task.seed if task.HasField("seed") else None,
        environment=task.environment,
    )


def _timeouts(field: str, limits: pb.TaskLimits) -> Timeouts:
    def limit(name: str) -> float | None:
        if not limits.HasField(name):
            return None
        return _seconds(f"{field}.{name}", getattr(limits, name))

    return Timeouts(limit("schedule_to_start"), limit("start_to_close"), limit("schedule_to_close"))


def _seconds(field: str, seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST):
        raise InvalidArgument(f"{field}={seconds!r}: give seconds above 0, or nothing for no limit")
    return seconds


def amount(field: str, given: pb.Amount) -> Resources:
    """Raises InvalidArgument, naming the field."""
    if not (math.isfinite(given.cpu) and 0 <= given.cpu <= _BYTES):
        raise InvalidArgument(f"{field}.cpu={given.cpu!r}: give a number of cores, from 0")
    if given.memory > _BYTES:
        raise InvalidArgument(f"{field}.memory={given.memory}: give bytes, up to {_BYTES}")
    return Resources(1, given.cpu, given.memory)


def _check_within(field: str, requests: Resources, most: Resources) -> None:
    for name in ("cpu", "memory"):
        asked, limit = getattr(requests, name), getattr(most, name)
        if limit and asked > limit:
            raise InvalidArgument(
                f"{field}.resources.requests.{name}={asked:g} is over its limit, {limit:g}: what is set "
                "aside for a task is part of what it may use"
            )
