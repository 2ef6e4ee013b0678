from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from megaflow.errors import FailedPrecondition, NotFound, Unavailable
from megaflow_server.orchestrator.commands import (
    AddTasks,
    Command,
    CreateJob,
    NewTask,
    Renew,
    SealJob,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.orchestrator.writer import Writer


class CountingStore(MemoryStore):
    """Counts its transactions, and waits at the beginning of each until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions = 0
        self.go = threading.Event()
        self.fails = False

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        self.transactions += 1
        assert self.go.wait(20)
        with super().transaction() as tx:
            yield tx
            if self.fails:
                raise OSError(28, "No space left on device")


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def writer(store: CountingStore) -> Iterator[Writer]:
    writer = Writer(store, RetryPolicy(), lambda: 5.0)
    yield writer
    store.go.set()
    writer.close()


def test_what_comes_meanwhile_goes_into_the_next_transaction_together(
    store: CountingStore, writer: Writer
) -> None:
    answers = [writer.ask(CreateJob("j", "ann", 1))]
    answers += [writer.ask(AddTasks("j", "ann", (NewTask(i, "{}"),))) for i in range(100)]
    store.go.set()
    ids = [answer.result(20) for answer in answers][1:]
    assert ids == [[f"j/{i}"] for i in range(100)]
    assert store.transactions <= 3


def test_a_refusal_is_the_answer_of_its_command_alone(store: CountingStore, writer: Writer) -> None:
    store.go.set()
    asked: list[Command] = [
        CreateJob("j", "ann", 1),
        SealJob("j", "eve"),
        Renew("r"),
        SealJob("j", "ann"),
    ]
    answers = [writer.ask(command) for command in asked]
    with pytest.raises(NotFound, match="job='j'"):
        answers[1].result(20)
    with pytest.raises(FailedPrecondition, match="runner='r'"):
        answers[2].result(20)
    answers[3].result(20)
    job = store.job("j")
    assert job is not None
    assert job.sealed


def test_where_a_transaction_fails_nothing_of_it_has_happened(
    store: CountingStore, writer: Writer
) -> None:
    store.go.set()
    store.fails = True
    with pytest.raises(Unavailable, match="No space left on device"):
        writer.ask(CreateJob("j", "ann", 1)).result(20)
    assert store.job("j") is None
    store.fails = False
    writer.ask(CreateJob("j", "ann", 1)).result(20)
    assert store.job("j") is not None


def test_runners_do_not_wait_behind_a_crowd(store: CountingStore, writer: Writer) -> None:
    order: list[object] = []
    crowd = [writer.ask(CreateJob(f"j{i}", "ann", 1)) for i in range(1000)]
    renewed = writer.ask(Renew("nobody"))
    for answer in (*crowd, renewed):
        answer.add_done_callback(order.append)
    store.go.set()
    for answer in crowd:
        answer.result(20)
    assert isinstance(renewed.exception(20), FailedPrecondition)
    assert order.index(renewed) <= 256  # behind those at most that had begun before it came


def test_a_transaction_is_bounded_by_the_tasks_that_it_adds(
    store: CountingStore, writer: Writer
) -> None:
    writer.ask(CreateJob("j", "ann", 1))
    tasks = [tuple(NewTask(i * 200 + k, "{}") for k in range(200)) for i in range(6)]
    answers = [writer.ask(AddTasks("j", "ann", some)) for some in tasks]
    store.go.set()
    assert [len(answer.result(20)) for answer in answers] == [200] * 6
    assert store.transactions >= 3
