"""The orchestrator in a world where everything goes wrong, and whether we would notice if it did not stand that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from megaflow_server.orchestrator import scheduler, transitions
from megaflow_server.orchestrator.handlers import attempts, ending, jobs, runners, waking
from megaflow_server.orchestrator.lease_watch import LeaseWatch
from megaflow_server.orchestrator.records import TERMINAL, TaskState
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.simulation import fleet, orchestrators, scenario
from megaflow_server.orchestrator.simulation.scenario import run
from megaflow_server.orchestrator.store.base import Store
from megaflow_server.orchestrator.store.engines import connect
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.orchestrator.store.opening import upgrade
from megaflow_server.orchestrator.store.sql import SqlStore
from megaflow_server.orchestrator.transitions import EDGES
from mutants import Mutant, planted

SEEDS, PART = 2000, 125


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_every_promise_holds_whatever_goes_wrong(first: int) -> None:
    for seed in range(first, first + PART):
        assert run(seed).wrong == {}, seed


def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    program = f"from {scenario.__name__} import run; print([run(seed).digest for seed in range(5)])"
    told = set()
    for hashes in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        made = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(made.stdout)
    assert told == {f"{[run(seed).digest for seed in range(5)]}\n"}


def test_seeds_differ() -> None:
    assert len({run(seed).digest for seed in range(5)}) == 5


def sqlite() -> Store:
    engine = connect("sqlite://")
    upgrade(engine)
    return SqlStore(engine)


@pytest.mark.long
def test_over_a_database_everything_happens_as_over_the_model() -> None:
    for seed in range(8):
        made = run(seed, sqlite)
        assert made.wrong == {}
        assert made.digest == run(seed).digest


@pytest.mark.long
def test_runs_go_everywhere() -> None:
    reached: Counter[str] = Counter()
    for seed in range(150):
        reached.update(run(seed).reached)
    # Steps so rare that not every 150 seeds have them: a third death before an attempt has begun, say.
    rare = {"starting > quarantined", "retrying > failed", "starting > evaluating"}
    edges = {f"{before} > {after}" for before in EDGES for after in EDGES[before]}
    assert edges - rare <= set(reached), edges - rare - set(reached)
    assert all(
        reached[f"{TaskState.QUEUED} > {TaskState.STARTING}"] > 10 * reached[one] for one in rare
    )


# What each check must notice: by the promise, the bugs that it is to catch.
STOPPED = "what is not wanted any more is stopped"
BUGS = {
    "one execution of a task at a time": [
        Mutant(LeaseWatch.look, ">= self._expires", ">= self._expires / 3"),
        Mutant(fleet.Runner._expired, "return self._registered and", "return False and"),
    ],
    "a quota is never exceeded": [
        Mutant(scheduler._full, "tenant.running >= tenant.most", "tenant.running > tenant.most"),
        Mutant(ending.close, "tenant.running - 1", "tenant.running"),
        Mutant(attempts.finish, "if attempt.state is AttemptState.CLOSED:", "if False:"),
        Mutant(attempts.claim, "tx.put_tenant(tenant)", "pass"),
    ],
    "a runner's room is never exceeded": [
        Mutant(attempts.claim, "used=runner.used + one.takes", "used=runner.used"),
        Mutant(
            attempts.claim,
            "one.task, job, one.takes, command",
            "one.task, job, one.task.requests, command",
        ),
        Mutant(scheduler._Line.next, "takes.fits(room)", "takes.fits(room + room)"),
    ],
    "only infrastructure is retried": [
        Mutant(ending.settle, "if failure.kind not in _SPOILT:", "if False:"),
    ],
    "infrastructure is retried": [
        Mutant(ending.settle, "failure.kind is FailureKind.RUNNER_LOST", "False"),
        Mutant(ending.settle, "task.retries >= policy.most", "task.retries >= 1"),
    ],
    "at most so many retries": [
        Mutant(ending.settle, "task.retries >= policy.most", "task.retries > policy.most"),
    ],
    "three deaths are a quarantine": [
        Mutant(ending.settle, "deaths >= policy.deaths", "deaths > policy.deaths"),
        Mutant(ending.settle, "(failure.kind is FailureKind.WORKER_DIED)", "True"),
    ],
    "everything ends": [
        Mutant(waking.wake, "due = tx.due(now, command.most)", "due = []"),
        Mutant(runners._lose, "settle(tx, task, outcome, now, policy)", "pass"),
        Mutant(attempts.claim, "if command.request <= runner.claims:", "if False:"),
        Mutant(transitions._due, "moments.append(not_before)", "moments.append(not_before + 1e6)"),
        Mutant(RetryPolicy.spend, "-left / self.refill", "-1e6 * left"),
    ],
    "nothing is left": [
        Mutant(runners.expire, "more = len(held) == command.most", "more = False"),
    ],
    STOPPED: [
        Mutant(jobs.cancel, "revoke(tx, task)", "pass"),
        Mutant(waking._time_out, "revoke(tx, task)", "pass"),
        Mutant(
            runners.renew,
            "tx.open_attempts(runner.id, AttemptState.REVOKED, _REVOKED_AT_ONCE)",
            "[]",
        ),
    ],
    "each limit is kept": [
        Mutant(
            transitions._due, "task.submitted + limits.schedule_to_close", "task.submitted + 1e6"
        ),
        Mutant(transitions._due, "started + limits.start_to_close", "started + 1e6"),
        Mutant(transitions._due, "queued + limits.schedule_to_start", "queued + 1e6"),
    ],
    "a key makes one task": [
        Mutant(jobs._by_key, "if asked.key else None", "if False else None"),
    ],
    "what was acknowledged is there": [
        Mutant(
            orchestrators.Orchestrator._carry_out,
            "answers = [error] * len(commands)",
            "answers = [['lost'] * len(one.tasks) if hasattr(one, 'tasks') else error for one in commands]",
        ),
    ],
    "an outcome that was accepted stands": [
        Mutant(ending.close, "accepted=accepted", "accepted=False"),
    ],
    "each task ends at a place of its own": [
        Mutant(ending.end, "done=job.done + 1", "done=job.done + 2"),
    ],
    "events follow the edges": [
        Mutant(MemoryStore.transaction, "for step in reversed(self._undo):", "for step in ():"),
    ],
    "every transition is an event": [
        Mutant(ending.move, "tx.add_event(event)", "pass"),
    ],
    "seeds come from job, task and sample": [
        Mutant(
            jobs._new,
            "seed_of(job.seed, asked.index, asked.sample)",
            "seed_of(job.seed, asked.index, 0)",
        ),
    ],
    "one result per task": [
        Mutant(jobs.cancel_task, "if task.state not in TERMINAL:", "if True:"),
    ],
}


@pytest.mark.parametrize(
    ("promise", "bug"), [(promise, bug) for promise in BUGS for bug in BUGS[promise]], ids=str
)
def test_a_planted_bug_is_caught(
    promise: str, bug: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bug.function is jobs.cancel_task:  # two checks are between it and this bug
        edges = {state: frozenset(TaskState) for state in TaskState}
        monkeypatch.setattr(transitions, "EDGES", edges)
    seen: Counter[str] = Counter()
    with planted(bug):
        for seed in range(600):
            seen.update(run(seed).wrong)
            if promise in seen:
                return
    pytest.fail(f"{bug} was not caught; seen were {dict(seen)}")


def test_every_end_is_one() -> None:
    assert all(not EDGES[state] for state in TERMINAL)
