"""`megaflow ps`, `why` and `cancel`: the tasks of a server, from outside."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megaflow_server.cli.options import AsJson, TaskName
from megaflow_server.cli.reaching import LocalServer, client_of
from megaflow_server.cli.report import print_json, print_table

if TYPE_CHECKING:
    from megaflow import JobStatus, TaskEvent, TaskStatus

# In the order in which a task goes through them.
_STATES = (
    *("queued", "retrying", "starting", "running", "evaluating"),
    *("succeeded", "failed", "cancelled", "quarantined"),
)

JobOrTask = Annotated[
    str,
    typer.Argument(
        metavar="JOB|TASK", help="A job's id or name, or JOB/INDEX[.SAMPLE], or JOB/NAME[.SAMPLE]."
    ),
]


def ps(server: LocalServer = None, as_json: AsJson = False) -> None:
    """List your jobs, the newest first, and how far each is."""
    with client_of(server) as client:
        jobs = client.jobs()
    if as_json:
        print_json([_job_facts(job) for job in jobs])
        return
    rows = [
        (
            job.id,
            job.name,
            _minute(job.submitted),
            f"{job.done} of {job.total}{'' if job.sealed else ', more to come'}",
            _said(job),
        )
        for job in jobs
    ]
    print_table(("job", "name", "submitted", "done", "tasks"), rows)


def why(
    task: TaskName,
    server: LocalServer = None,
    as_json: AsJson = False,
) -> None:
    """Say what a task waits for, and how it came to where it is."""
    from megaflow_server.jobs.task_names import find_task

    with client_of(server) as client:
        status = find_task(client, task)
    if as_json:
        print_json(_task_facts(status))
        return
    typer.echo(f"{status.id} is {status.state}: {status.reason}")
    for index, reason in enumerate(status.waits_for):
        typer.echo(f"{'It waits for' if index == 0 else 'and for'} {reason}")
    typer.echo("")
    for event in status.events:
        fence = f"attempt {event.fence}" if event.fence else ""
        typer.echo(f"{event.at:%Y-%m-%d %H:%M:%S}Z  {event.after:12} {fence:11} {event.reason}")


def cancel(
    name: JobOrTask,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Told in its results.")] = "",
    server: LocalServer = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job's tasks that have not ended, or one task."""
    from megaflow_server.jobs.task_names import find_task

    with client_of(server) as client:
        if "/" in name:
            task = client.cancel_task(find_task(client, name).id, reason)
            facts, said = _task_facts(task), f"{task.id} is {task.state}: {task.reason}"
        else:
            job = client.job(name).cancel(reason)
            facts, said = _job_facts(job), f"{job.id} is cancelled: {_said(job)}"
    if as_json:
        print_json(facts)
    else:
        typer.echo(said)


def _said(job: JobStatus) -> str:
    """How many tasks are in each state, as a line."""
    said = [f"{job.states[name]} {name}" for name in _STATES if job.states.get(name)]
    if job.spent:
        said.append(f"stopped at ${job.known_cost:.6g}: it may cost ${job.max_cost:g}")
    return ", ".join(said)


def _job_facts(job: JobStatus) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "submitted": job.submitted.isoformat(),
        "total": job.total,
        "done": job.done,
        "sealed": job.sealed,
        "cancelled": job.cancelled,
        "seed": job.seed,
        "cost": job.cost,
        "known_cost": job.known_cost,
        "max_cost": job.max_cost,
        "spent": job.spent,
        "states": {name: job.states.get(name, 0) for name in _STATES},
    }


def _task_facts(task: TaskStatus) -> dict[str, Any]:
    return {
        "id": task.id,
        "job": task.job_id,
        "state": task.state,
        "reason": task.reason,
        "waits_for": list(task.waits_for),
        "events": [_event_facts(event) for event in task.events],
    }


def _event_facts(event: TaskEvent) -> dict[str, Any]:
    return {
        "at": event.at.isoformat(),
        "fence": event.fence,
        "before": event.before or None,
        "after": event.after,
        "reason": event.reason,
    }


def _minute(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}Z"
