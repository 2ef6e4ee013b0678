"""What each command does, within one transaction: the only place where records change.

A handler checks before it changes anything: where it raises, nothing has happened, and other commands of the same
transaction stand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from megaflow_server.orchestrator import commands
from megaflow_server.orchestrator.handlers import attempts, jobs, runners, waking
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Keys, Transaction

__all__ = ["handle", "keys"]

_HANDLERS: Final[Mapping[type, Callable[..., Any]]] = {
    commands.SetTenant: jobs.set_tenant,
    commands.CreateJob: jobs.create,
    commands.AddTasks: jobs.add,
    commands.SealJob: jobs.seal,
    commands.PutManifest: jobs.put_manifest,
    commands.CancelJob: jobs.cancel_job,
    commands.CancelTask: jobs.cancel_task,
    commands.StopJob: jobs.stop_job,
    commands.RegisterRunner: runners.register,
    commands.Renew: runners.renew,
    commands.DrainRunner: runners.drain,
    commands.ExpireRunner: runners.expire,
    commands.Claim: attempts.claim,
    commands.Advance: attempts.advance,
    commands.Finish: attempts.finish,
    commands.Wake: waking.wake,
}


def handle(command: commands.Command, tx: Transaction, now: float, policy: RetryPolicy) -> Any:
    """Carry out a command; its class says what the answer is."""
    return _HANDLERS[type(command)](command, tx, now, policy)


def keys(asked: Sequence[commands.Command]) -> Keys:
    """What carrying out these commands together will read, as far as they say it themselves."""
    found = Keys()
    for command in asked:
        match command:
            case commands.Advance() | commands.Finish():
                found.attempts.add((command.task, command.fence))
            case commands.Claim():
                found.runners.add(command.runner)
                found.every_tenant = True
            case commands.Renew() | commands.DrainRunner() | commands.ExpireRunner():
                found.runners.add(command.runner)
            case commands.RegisterRunner():
                found.runners.add(command.id)
            case commands.AddTasks():
                _keys_of_new(command, found)
            case commands.SealJob() | commands.CancelJob() | commands.StopJob():
                found.jobs.add(command.job)
            case commands.PutManifest():
                found.jobs.add(command.content.job)
            case commands.CreateJob():
                found.jobs.add(command.id)
                found.tenants.add(command.tenant)
            case commands.CancelTask():
                found.tasks.add(command.task)
            case commands.SetTenant():
                found.tenants.add(command.name)
            case commands.Wake():
                """What is due says the store alone."""
    return found


def _keys_of_new(command: commands.AddTasks, found: Keys) -> None:
    found.jobs.add(command.job)
    for task in command.tasks:
        found.tasks.add(jobs.task_id(command.job, task))
        found.specs.add(jobs.digest_of(task.document))
        if task.key:
            found.submissions.add((command.tenant, task.key))
