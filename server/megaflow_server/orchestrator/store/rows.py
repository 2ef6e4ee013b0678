"""Records as rows and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from megaflow_server.orchestrator.records import (
    FOREVER,
    Attempt,
    AttemptState,
    Cost,
    Event,
    Failure,
    FailureKind,
    Job,
    ManifestPart,
    Outcome,
    Peak,
    Resources,
    Runner,
    RunnerState,
    Task,
    TaskState,
    Tenant,
    Timeouts,
)

__all__ = [
    "attempt_from",
    "attempt_row",
    "event_from",
    "event_row",
    "flat",
    "job_from",
    "job_row",
    "manifest_from",
    "peak_from",
    "runner_from",
    "runner_row",
    "task_from",
    "task_row",
    "tenant_from",
    "tenant_row",
]

Row = Mapping[str, Any]


def task_row(task: Task) -> dict[str, Any]:
    limits = task.timeouts
    return {
        "id": task.id,
        "job": task.job,
        "tenant": task.tenant,
        "index": task.index,
        "sample": task.sample,
        "spec": task.spec,
        "order": task.order,
        "seed": task.seed,
        "submitted": task.submitted,
        "group": task.group,
        "priority": task.priority,
        **_resources_row(task.requests),
        "schedule_to_start": limits.schedule_to_start,
        "start_to_close": limits.start_to_close,
        "schedule_to_close": limits.schedule_to_close,
        "deadline": _or_none(task.deadline),
        "environment": task.environment,
        "state": task.state.value,
        "reason": task.reason,
        "fence": task.fence,
        "retries": task.retries,
        "worker_deaths": task.worker_deaths,
        "due": _or_none(task.due),
        "not_before": task.not_before,
        "queued": task.queued,
        "started": task.started,
        "done": task.done,
        "outcome": _outcome_text(task.outcome),
        "known_cost": None if task.cost is None else task.cost.known,
        "unknown_costs": None if task.cost is None else task.cost.unknown,
    }


def task_from(row: Row) -> Task:
    return Task(
        id=row["id"],
        job=row["job"],
        tenant=row["tenant"],
        index=row["index"],
        sample=row["sample"],
        spec=row["spec"],
        order=row["order"],
        seed=row["seed"],
        submitted=row["submitted"],
        group=row["group"],
        priority=row["priority"],
        requests=_resources(row),
        timeouts=Timeouts(
            row["schedule_to_start"], row["start_to_close"], row["schedule_to_close"]
        ),
        deadline=_or_forever(row["deadline"]),
        environment=row["environment"],
        state=TaskState(row["state"]),
        reason=row["reason"],
        fence=row["fence"],
        retries=row["retries"],
        worker_deaths=row["worker_deaths"],
        due=_or_forever(row["due"]),
        not_before=row["not_before"],
        queued=row["queued"],
        started=row["started"],
        done=row["done"],
        outcome=_outcome(row["outcome"]),
        cost=None if row["known_cost"] is None else Cost(row["known_cost"], row["unknown_costs"]),
    )


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "task": attempt.task,
        "fence": attempt.fence,
        "tenant": attempt.tenant,
        "runner": attempt.runner,
        **_resources_row(attempt.requests),
        "opened": attempt.opened,
        "claim": attempt.claim,
        "state": attempt.state.value,
        "worker": attempt.worker,
        "closed": attempt.closed,
        "accepted": attempt.accepted,
        "outcome": _outcome_text(attempt.outcome),
        "alone": attempt.alone,
    }


def attempt_from(row: Row) -> Attempt:
    return Attempt(
        task=row["task"],
        fence=row["fence"],
        tenant=row["tenant"],
        runner=row["runner"],
        requests=_resources(row),
        opened=row["opened"],
        claim=row["claim"],
        state=AttemptState(row["state"]),
        worker=row["worker"],
        closed=row["closed"],
        accepted=row["accepted"],
        outcome=_outcome(row["outcome"]),
        alone=row["alone"],
    )


def job_row(job: Job) -> dict[str, Any]:
    return {**flat(job), "deadline": _or_none(job.deadline)}


def job_from(row: Row) -> Job:
    return Job(**{**row, "deadline": _or_forever(row["deadline"])})


def tenant_row(tenant: Tenant) -> dict[str, Any]:
    return flat(tenant)


def tenant_from(row: Row) -> Tenant:
    return Tenant(**row)


def runner_row(runner: Runner) -> dict[str, Any]:
    return {
        "id": runner.id,
        **_resources_row(runner.capacity),
        **{f"used_{name}": value for name, value in _resources_row(runner.used).items()},
        "renewals": runner.renewals,
        "claims": runner.claims,
        "state": runner.state.value,
    }


def runner_from(row: Row) -> Runner:
    return Runner(
        id=row["id"],
        capacity=_resources(row),
        used=Resources(row["used_slots"], row["used_cpu"], row["used_memory"]),
        renewals=row["renewals"],
        claims=row["claims"],
        state=RunnerState(row["state"]),
    )


def event_row(event: Event) -> dict[str, Any]:
    row = flat(event)
    row["before"] = None if event.before is None else event.before.value
    row["after"] = event.after.value
    return row


def event_from(row: Row) -> Event:
    before = None if row["before"] is None else TaskState(row["before"])
    return Event(
        row["task"], row["fence"], row["at"], before, TaskState(row["after"]), row["reason"]
    )


def manifest_from(row: Row) -> ManifestPart:
    return ManifestPart(**row)


def peak_from(row: Row) -> Peak:
    return Peak(**row)


def flat(record: Any) -> dict[str, Any]:
    """A record whose columns are its fields."""
    return {name: getattr(record, name) for name in record.__slots__}


def _resources_row(resources: Resources) -> dict[str, Any]:
    return {"slots": resources.slots, "cpu": resources.cpu, "memory": resources.memory}


def _resources(row: Row) -> Resources:
    return Resources(row["slots"], row["cpu"], row["memory"])


def _or_none(moment: float) -> float | None:
    return None if moment == FOREVER else moment


def _or_forever(moment: float | None) -> float:
    return FOREVER if moment is None else moment


def _outcome_text(outcome: Outcome | None) -> str | None:
    if outcome is None:
        return None
    said = {
        "valid": outcome.valid,
        "reward": outcome.reward,
        "rewards": dict(outcome.rewards),
        "failure": None if outcome.failure is None else asdict(outcome.failure),
        "trajectory": outcome.trajectory,
        "cost": None if outcome.cost is None else asdict(outcome.cost),
    }
    return json.dumps(said, separators=(",", ":"))


def _outcome(text: str | None) -> Outcome | None:
    if text is None:
        return None
    said = json.loads(text)
    failure = said["failure"]
    if failure is not None:
        failure = Failure(**{**failure, "kind": FailureKind(failure["kind"])})
    cost = said.get("cost")  # none in what was written before the store's version 0003
    return Outcome(
        said["valid"],
        said["reward"],
        said["rewards"],
        failure,
        said["trajectory"],
        None if cost is None else Cost(**cost),
    )
