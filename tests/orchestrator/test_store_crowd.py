"""Many at once: orchestrators over one PostgreSQL, callers with one key, tasks in a store; and a full disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from megaflow.errors import FailedPrecondition
from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    Claim,
    Command,
    CreateJob,
    Finish,
    NewTask,
    RegisterRunner,
    SetTenant,
)
from megaflow_server.orchestrator.records import Failure, FailureKind, Outcome, Resources, TaskState
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import ENDED, FREED, MISSED, QUEUED, Store
from megaflow_server.orchestrator.store.engines import connect
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.orchestrator.store.opening import open_store
from megaflow_server.orchestrator.writer import Writer
from postgres_server import PostgresServer
from store_life import asker

DONE = Outcome(True, 1.0)
SPOILT = Outcome(False, failure=Failure(FailureKind.INFRASTRUCTURE, "running", "it broke"))
ROOM = Resources(50, 50.0, 0)


@pytest.fixture
def place(postgres: PostgresServer, request: pytest.FixtureRequest) -> str:
    """The URL of a part of the database that is this test's."""
    name = f"s{abs(hash(request.node.name)):x}"
    engine = connect(postgres.url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    engine.dispose()
    return f"{postgres.url}&options=-csearch_path%3D{name}"


def together(work: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.long
@pytest.mark.requires("postgres")
def test_orchestrators_over_one_postgresql_share_the_work_and_keep_the_quotas(place: str) -> None:
    tenants = {"ann": (120, 5), "bob": (60, 2)}
    stores = [open_store(place) for _ in range(3)]
    first = asker(stores[0])
    for name, (count, most) in tenants.items():
        first(SetTenant(name, 1.0, most), CreateJob(f"job-{name}", name, 1))
        first(AddTasks(f"job-{name}", name, tuple(NewTask(i, "{}") for i in range(count))))
    ended = threading.Event()
    beyond: list[tuple[str, int]] = []

    def watch() -> None:
        engine = connect(place)
        asked = sa.text(
            "SELECT tenant, count(*) FROM attempts WHERE state <> 'closed' GROUP BY tenant"
        )
        while not ended.is_set():
            with engine.connect() as connection:
                found = [(row[0], row[1]) for row in connection.execute(asked)]
            beyond.extend((name, count) for name, count in found if count > tenants[name][1])
        engine.dispose()

    def orchestrate(number: int) -> None:
        ask, request = asker(stores[number]), 0
        ask(RegisterRunner(f"r{number}", ROOM))
        while any(state is TaskState.QUEUED for _, state, _ in stores[number].counts()):
            request += 1
            (claimed,) = ask(Claim(f"r{number}", 4, request))
            ask(*(Finish(one.task.id, one.task.fence, DONE) for one in claimed))

    watching = threading.Thread(target=watch)
    watching.start()
    together([lambda number=number: orchestrate(number) for number in range(3)])  # type: ignore[misc]
    ended.set()
    watching.join()
    assert beyond == []
    for name, (count, _) in tenants.items():
        made = [(one.task, one.fence) for one in stores[0].job_attempts(f"job-{name}")]
        assert sorted(made) == sorted((f"job-{name}/{index}", 1) for index in range(count))
        assert [task.done for task in stores[0].results(f"job-{name}", 0, 1000)] == list(
            range(1, count + 1)
        )
    for store in stores:
        store.close()


def one_key(stores: list[Store]) -> None:
    """1,000 at once, each in the name of another call, of jobs of their own."""
    writers = [Writer(store, RetryPolicy()) for store in stores]
    count = len(writers)
    for number in range(10):
        writers[0].ask(CreateJob(f"j{number}", "ann", 1)).result(60)
    new = NewTask(0, '{"env": "E"}', key="once")
    answers = [
        writers[number % count].ask(AddTasks(f"j{number % 10}", "ann", (new,)))
        for number in range(1000)
    ]
    made = Counter(answer.result(60)[0] for answer in answers)
    assert len(made) == 1
    assert sum(times for _, _, times in stores[-1].counts()) == 1
    other = NewTask(1, '{"env": "F"}', key="once")
    with pytest.raises(FailedPrecondition, match="idempotency_key='once'"):
        writers[-1].ask(AddTasks("j3", "ann", (other,))).result(60)
    twice = (NewTask(5, "{}", key="two"), NewTask(6, '{"env": "E"}', key="two"))
    with pytest.raises(FailedPrecondition, match="idempotency_key='two'"):
        writers[0].ask(AddTasks("j3", "ann", twice)).result(60)
    for writer in writers:
        writer.close()
    for store in stores:
        store.close()


def test_one_key_makes_one_task_over_sqlite(tmp_path: Path) -> None:
    one_key([open_store(f"sqlite:///{tmp_path}/store.db")])


@pytest.mark.requires("postgres")
def test_one_key_makes_one_task_over_postgresql(place: str) -> None:
    one_key([open_store(place) for _ in range(3)])


class Ear:
    """What was heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def wait(self, *news: str) -> None:
        end = time.monotonic() + 20
        while not set(news) <= set(self.heard):
            assert time.monotonic() < end, (news, self.heard)
            time.sleep(0.005)
        self.heard.clear()


def news(told: Store, heard_by: Store) -> None:
    ear, ask = Ear(), asker(told)
    stop = heard_by.listen(ear.heard.append)
    if told is not heard_by:
        ear.wait(MISSED)  # from here on nothing is
    ask(CreateJob("j", "ann", 1), AddTasks("j", "ann", (NewTask(0, "{}"),)))
    ear.wait(QUEUED)
    ask(RegisterRunner("r", ROOM))
    (claimed,) = ask(Claim("r", 1, 1))
    assert ear.heard == []
    ask(Finish(claimed[0].task.id, 1, DONE))
    ear.wait(f"{ENDED}j", FREED)
    ask(CreateJob("k", "ann", 1), AddTasks("k", "ann", (NewTask(0, "{}"),)))
    ear.wait(QUEUED)
    (claimed,) = ask(Claim("r", 1, 2))
    # It is to be retried: neither queued nor at its end, and the room it had is another's.
    (finished,) = ask(Finish(claimed[0].task.id, 1, SPOILT))
    assert finished.accepted
    ear.wait(FREED)
    stop()


def test_listeners_hear_what_was_queued_what_has_ended_and_what_left_room(tmp_path: Path) -> None:
    model, store = MemoryStore(), open_store(f"sqlite:///{tmp_path}/store.db")
    news(model, model)
    news(store, store)
    store.close()


@pytest.mark.requires("postgres")
def test_listeners_hear_of_other_orchestrators(place: str) -> None:
    told, heard_by = open_store(place), open_store(place)
    news(told, heard_by)
    told.close()
    heard_by.close()


@pytest.mark.long
def test_100000_queued_and_10000_running_are_served_again_within_5_s(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store, policy = open_store(url), RetryPolicy()

    def ask(*commands: Command) -> None:
        carry_out(store, commands, time.time, policy)

    ask(CreateJob("j", "ann", 1), RegisterRunner("r", Resources(10_000, 0.0, 0)))
    for begin in range(0, 110_000, 5000):
        new = tuple(NewTask(index, '{"env": "E"}') for index in range(begin, begin + 5000))
        ask(AddTasks("j", "ann", new))
    for request in range(1, 11):
        ask(Claim("r", 1000, request))
    store.close()
    # What else this machine does makes one of them slow, but hardly all three.
    took = [serve_again(url, f"new{number}") for number in range(3)]
    assert min(took) < 5, took
    store = open_store(url)
    assert {state: count for _, state, count in store.counts()} == {
        TaskState.QUEUED: 99_940,
        TaskState.STARTING: 10_000,
        TaskState.SUCCEEDED: 60,
    }
    store.close()


def serve_again(url: str, runner: str) -> float:
    """Seconds until a server that was just started has given tasks to a runner and taken their results."""
    begun = time.monotonic()
    store = open_store(url)
    ask = asker(store)
    ask(RegisterRunner(runner, ROOM))
    (claimed,) = ask(Claim(runner, 20, 1))
    ask(*(Finish(one.task.id, one.task.fence, DONE) for one in claimed))
    store.close()
    return time.monotonic() - begun


FULL = """
import os, sqlite3, sys
from pathlib import Path
from megaflow.errors import Unavailable
from megaflow_server.orchestrator.commands import AddTasks, CreateJob, NewTask
from megaflow_server.orchestrator.store.opening import open_store
from store_life import asker

place, phase = Path(sys.argv[1]), sys.argv[2]
store = open_store(f"sqlite:///{place}/store.db")
ask = asker(store)
if phase == "fill":
    (place / "ballast").write_bytes(bytes(1 << 19))
    ask(CreateJob("j", "ann", 1))
    told = 0
    try:
        while True:
            ask(AddTasks("j", "ann", (NewTask(told, '{"env": "%s"}' % ("E" * 2000 + str(told))),)))
            told += 1
    except Unavailable as error:
        assert "full" in str(error), error
    assert sum(count for _, _, count in store.counts()) == told > 20  # and it can be read
    print(told, flush=True)
    os.kill(os.getpid(), 9)
told = int(sys.argv[3])
assert sum(count for _, _, count in store.counts()) == told
(place / "ballast").unlink()
ask(AddTasks("j", "ann", (NewTask(told, "{}"),)))
store.close()
assert sqlite3.connect(place / "store.db").execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print("well")
"""


@pytest.mark.requires("tmpfs")
def test_a_full_disk_loses_nothing_and_is_no_end(tmp_path: Path) -> None:
    program = tmp_path / "full.py"
    program.write_text(FULL)
    disk = tmp_path / "disk"
    disk.mkdir()
    run = f"{sys.executable} {program} {disk}"
    script = f"mount -t tmpfs -o size=3m tmpfs {disk}; told=$({run} fill); {run} after $told"
    unshare = shutil.which("unshare")
    assert unshare is not None
    made = subprocess.run(
        [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert made.stdout == "well\n", made.stderr
