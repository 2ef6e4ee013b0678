"""What attempts have cost, counted for their tasks and jobs; a job that has cost what it may begins no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megaflow.errors import FailedPrecondition
from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    CancelTask,
    Claim,
    Claimed,
    Command,
    CreateJob,
    ExpireRunner,
    Finish,
    Finished,
    NewTask,
    RegisterRunner,
    StopJob,
    Wake,
)
from megaflow_server.orchestrator.records import (
    Cost,
    Failure,
    FailureKind,
    Job,
    Outcome,
    Resources,
    Task,
    TaskState,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.base import Store
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.orchestrator.store.opening import open_store

DIED = Failure(FailureKind.WORKER_DIED, "running", "it died")


class Costs:
    """A job of four tasks that may cost a dollar, and a runner with room for two."""

    def __init__(self, store: Store) -> None:
        self.store, self.now, self.claims = store, 100.0, 0
        self.ask(RegisterRunner("r", Resources(2)))
        self.ask(CreateJob("j", "ann", 1, max_cost=1.0))
        self.ask(AddTasks("j", "ann", tuple(NewTask(index, "{}") for index in range(4))))

    def ask(self, command: Command) -> Any:
        (answer,) = carry_out(self.store, [command], lambda: self.now, RetryPolicy())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def claim(self) -> list[Claimed]:
        self.claims += 1
        claimed: list[Claimed] = self.ask(Claim("r", 2, self.claims))
        return claimed

    def finish(self, task: str, cost: Cost | None, failure: Failure | None = None) -> Finished:
        fence = self.task(task).fence
        reward = None if failure else 1.0
        outcome = Outcome(failure is None, reward, failure=failure, cost=cost)
        finished: Finished = self.ask(Finish(task, fence, outcome))
        return finished

    def task(self, name: str) -> Task:
        task = self.store.find_task(name)
        assert task is not None
        return task

    def job(self) -> Job:
        job = self.store.find_job("ann", "j")
        assert job is not None
        return job


@pytest.fixture(params=["memory", "sqlite"])
def costs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Costs]:
    store: Any = MemoryStore()
    if request.param == "sqlite":
        store = open_store(f"sqlite:///{tmp_path / 'tasks.db'}")
    yield Costs(store)
    if request.param == "sqlite":
        store.close()


def test_all_attempts_of_a_task_count_and_what_is_unknown_stays_so(costs: Costs) -> None:
    costs.claim()
    assert costs.finish("j/0", Cost(0.25), DIED) == Finished(True, costs.task("j/0").reason)
    costs.finish("j/1", None)
    assert costs.task("j/1").cost is None
    costs.now += 1000
    costs.ask(Wake())
    costs.claim()
    costs.finish("j/0", Cost(0.125))
    costs.claim()
    costs.finish("j/2", Cost(0.5, 1))
    assert costs.task("j/0").cost == Cost(0.375)
    assert costs.task("j/2").cost == Cost(0.5, 1)
    outcome = costs.task("j/2").outcome
    assert outcome is not None
    assert outcome.cost == Cost(0.5, 1)
    assert (costs.job().known_cost, costs.job().unknown_costs) == (0.875, 1)
    assert costs.job().spent is None


def test_nobody_can_tell_what_a_lost_attempt_has_cost(costs: Costs) -> None:
    costs.claim()
    costs.ask(ExpireRunner("r", 0))
    assert costs.task("j/0").cost == Cost(unknown=1)
    assert costs.job().unknown_costs == 2


def test_what_an_attempt_spends_whose_task_has_ended_is_its_jobs(costs: Costs) -> None:
    costs.claim()
    costs.ask(CancelTask("j/0", "ann"))
    costs.ask(CancelTask("j/3", "ann"))
    assert (costs.task("j/0").cost, costs.task("j/3").cost) == (Cost(unknown=1), None)
    stopped = Failure(FailureKind.CANCELLED, "running", "the orchestrator has it stopped")
    assert not costs.finish("j/0", Cost(0.5), stopped).accepted
    assert costs.task("j/0").cost == Cost(unknown=1)  # a result stays as it is
    assert (costs.job().known_cost, costs.job().unknown_costs) == (0.5, 0)


def test_a_job_that_has_cost_what_it_may_begins_no_more(costs: Costs) -> None:
    assert [one.job.max_cost for one in costs.claim()] == [1.0, 1.0]
    finished = costs.finish("j/0", Cost(1.5))
    assert finished.spent == "j"
    assert costs.claim() == []  # and what it would have been given is cancelled
    cancelled = costs.task("j/2")
    assert cancelled.state is TaskState.CANCELLED
    assert cancelled.reason == "max_cost: the job may cost $1, and has cost $1.5"
    assert costs.ask(StopJob("j")) == 1
    assert costs.ask(StopJob("j")) == 0
    assert costs.task("j/3").state is TaskState.CANCELLED
    # What runs may end; its runner refuses its calls.
    assert costs.task("j/1").state is TaskState.STARTING
    refused = Failure(FailureKind.CANCELLED, "running", "max_cost: it was refused a call")
    costs.finish("j/1", Cost(0.25), refused)
    assert costs.task("j/1").state is TaskState.CANCELLED
    assert costs.job().known_cost == 1.75
    assert costs.job().done == 4


def test_a_job_that_may_cost_more_is_not_stopped(costs: Costs) -> None:
    costs.claim()
    costs.finish("j/0", Cost(0.999))
    assert costs.ask(StopJob("j")) == 0
    assert len(costs.claim()) == 1
    with pytest.raises(FailedPrecondition, match="is another one"):
        costs.ask(CreateJob("j", "ann", 1, max_cost=2.0))


async def test_all_that_waits_ends_as_soon_as_the_money_is_spent() -> None:
    async with Orchestrator(MemoryStore()) as orchestrator:
        await orchestrator.ask(RegisterRunner("r", Resources(1)))
        await orchestrator.ask(CreateJob("j", "ann", 1, max_cost=1.0))
        tasks = tuple(NewTask(index, "{}") for index in range(1500))
        await orchestrator.ask(AddTasks("j", "ann", tasks))
        (one,) = await orchestrator.claim(Claim("r", 1, 1), 0.0)
        await orchestrator.finish(Finish(one.task.id, 1, Outcome(True, 1.0, cost=Cost(1.0))))
        assert (await orchestrator.job("ann", "j")).done == 1500
