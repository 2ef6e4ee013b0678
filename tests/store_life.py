"""A little life for stores that are struck down: commands in a fixed order, carried on by whoever comes next.

What was answered is written to a journal, line by line, as it comes; `audit` holds a store against that.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megaflow.errors import MegaflowError
from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    Advance,
    CancelTask,
    Claim,
    Claimed,
    Command,
    CreateJob,
    ExpireRunner,
    Finish,
    NewTask,
    RegisterRunner,
    Renew,
    SealJob,
    SetTenant,
    Wake,
)
from megaflow_server.orchestrator.records import (
    TERMINAL,
    AttemptState,
    Failure,
    FailureKind,
    Outcome,
    Resources,
    TaskState,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Store
from megaflow_server.orchestrator.transitions import EDGES

__all__ = ["TASKS", "audit", "live"]

TASKS = 4
_SLOTS = 2
_SPOILT = Outcome(
    False, failure=Failure(FailureKind.INFRASTRUCTURE, "running", "its machine broke")
)
_DONE = Outcome(True, 1.0, {"solved": 1.0})

Ask = Callable[..., list[Any]]


def asker(store: Store) -> Ask:
    """Has commands carried out together; raises what one was refused with."""
    policy = RetryPolicy(base=0.001)

    def ask(*commands: Command) -> list[Any]:
        answers = carry_out(store, commands, time.time, policy)
        for answer in answers:
            if isinstance(answer, MegaflowError):
                raise answer
        return answers

    return ask


def live(store: Store, journal: Path, ask: Ask, tasks: int = TASKS) -> None:
    """Submit again what may be there already, give up whoever was there before, and bring everything to its end."""

    def note(**words: object) -> None:
        with journal.open("a") as file:
            file.write(json.dumps(words) + "\n")

    ask(SetTenant("ann", 1.0, _SLOTS), CreateJob("j", "ann", 1))
    new = tuple(NewTask(index, '{"env": "E"}', key=f"k{index}") for index in range(tasks))
    if not journal.exists() or "cancelled" not in journal.read_text():
        (ids,) = ask(AddTasks("j", "ann", new))
        note(tasks=ids)
        ask(SealJob("j", "ann"), CancelTask(f"j/{tasks - 1}", "ann"))
        note(cancelled=f"j/{tasks - 1}")
    for runner in list(store.runners()):
        ask(ExpireRunner(runner.id, runner.renewals))
    name = f"r{time.time_ns()}"
    ask(RegisterRunner(name, Resources(_SLOTS, 4.0, 0)))
    for request in itertools.count(1):
        if all(state in TERMINAL for _, state, _ in store.counts()):
            return
        _, _, claimed = ask(Wake(), Renew(name), Claim(name, _SLOTS, request))
        _execute(ask, claimed, note)


def _execute(ask: Ask, claimed: list[Claimed], note: Callable[..., None]) -> None:
    held = [(one.task.id, one.task.fence, one.task.retries) for one in claimed]
    ask(*(Advance(task, fence, further) for task, fence, _ in held for further in (False, True)))
    for task, fence, retries in held:
        outcome = _SPOILT if task.endswith("0") and not retries else _DONE
        (finished,) = ask(Finish(task, fence, outcome))
        if finished.accepted:
            note(task=task, fence=fence, valid=outcome.valid)


def audit(store: Any, journal: Path, count: int = TASKS) -> None:
    """Whether nothing that was answered is lost, and nothing happened twice."""
    said = [json.loads(line) for line in journal.read_text().splitlines()]
    tasks = {task.id: task for task in store.results("j", 0, 1000)}
    assert set(tasks) == {f"j/{index}" for index in range(count)}
    assert sorted(task.done for task in tasks.values()) == list(range(1, count + 1))
    attempts = {(one.task, one.fence): one for one in store.job_attempts("j")}
    assert all(one.state is AttemptState.CLOSED for one in attempts.values())
    for words in said:
        if "fence" in words:
            attempt = attempts[words["task"], words["fence"]]
            assert attempt.accepted
            assert attempt.outcome == (_DONE if words["valid"] else _SPOILT)
    for name, task in tasks.items():
        cancelled = name == f"j/{count - 1}"
        assert task.state is (TaskState.CANCELLED if cancelled else TaskState.SUCCEEDED)
        valid = [
            one
            for one in attempts.values()
            if one.task == name and one.accepted and one.outcome == _DONE
        ]
        assert len(valid) == (0 if cancelled else 1)
        assert task.retries == (1 if name.endswith("0") else 0)
        history = store.history(name)
        assert history[0].before is None
        assert all(
            after.before is before.after and after.after in EDGES[before.after]
            for before, after in itertools.pairwise(history)
        )
    with store.transaction() as tx:
        assert tx.tenant("ann").running == 0
