"""What clients read of a store: a database answers as its model does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    CancelTask,
    Claim,
    Command,
    CreateJob,
    NewTask,
    RegisterRunner,
)
from megaflow_server.orchestrator.records import Resources
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Store
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.orchestrator.store.opening import open_store


def story() -> Iterator[tuple[float, Command]]:
    yield 1.0, CreateJob("a", "ann", 1, "mon")
    yield 2.0, CreateJob("b", "ann", 1, "mon")
    yield 3.0, CreateJob("c", "bob", 1, "mon")
    for now, job, tenant in ((4.0, "a", "ann"), (4.0, "b", "ann"), (5.0, "c", "bob")):
        tasks = tuple(NewTask(i, "{}", priority=(0, 5, -5, 0)[i % 4]) for i in range(8))
        yield now, AddTasks(job, tenant, tasks)
    yield 6.0, RegisterRunner("r", Resources(3))
    yield 7.0, Claim("r", 3, 1)
    yield 8.0, CancelTask("a/3", "ann")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store: Store = (
        MemoryStore()
        if request.param == "memory"
        else open_store(f"sqlite:///{tmp_path / 'tasks.db'}")
    )
    for now, command in story():
        carry_out(store, [command], lambda now=now: now, RetryPolicy())  # type: ignore[misc]
    yield store
    store.close()


def test_jobs_are_found_by_id_or_the_newest_of_a_name_and_by_their_tenant_alone(
    store: Store,
) -> None:
    found = [store.find_job("ann", name) for name in ("a", "mon", "c", "", "none")]
    assert [job and job.id for job in found] == ["a", "b", None, None, None]
    assert [job.id for job in store.jobs("ann", 10)] == ["b", "a"]
    assert [job.id for job in store.jobs("ann", 1)] == ["b"]


def test_states_are_counted_by_job(store: Store) -> None:
    assert {job: dict(store.states(job)) for job in "abc"} == {
        "a": {"starting": 2, "cancelled": 1, "queued": 5},
        "b": {"queued": 8},
        "c": {"starting": 1, "queued": 7},
    }
    assert store.states("none") == []


def test_what_is_ahead_of_a_task_are_those_that_would_be_claimed_before_it(store: Store) -> None:
    for tenant in ("ann", "bob"):
        queued = [
            task
            for job in store.jobs(tenant, 10)
            for index in range(8)
            if (task := store.find_task(f"{job.id}/{index}")) and task.state == "queued"
        ]
        with store.transaction() as tx:
            heads = [task.id for task in tx.heads([tenant], None, 100)]
        assert sorted(heads) == sorted(task.id for task in queued)
        assert {task.id: store.ahead(task) for task in queued} == {
            name: place for place, name in enumerate(heads)
        }


def test_tenants_are_told_with_what_they_have_open(store: Store) -> None:
    assert {one.name: one.running for one in store.tenants()} == {"ann": 2, "bob": 1}
    assert [one.name for one in store.waiting()] == ["ann", "bob"]
    assert store.find_task("none") is None


def test_the_tasks_that_runners_have_the_longest_first(store: Store) -> None:
    found = [*store.active("a", 10), *store.active("b", 10), *store.active("c", 10)]
    assert [task.state.value for task in found] == ["starting"] * 3
    assert [task.started for task in found] == [7.0] * 3
    jobs = {task.job for task in found}
    assert all(len(store.active(job, 1)) == 1 for job in jobs)
    assert store.active("none", 10) == []
