"""One machine of commands over every store: they answer alike, and what must hold of the records does, always."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from megaflow.errors import MegaflowError, Unavailable
from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    Advance,
    CancelJob,
    CancelTask,
    Claim,
    Claimed,
    Command,
    CreateJob,
    DrainRunner,
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
    ACTIVE,
    FOREVER,
    TERMINAL,
    AttemptState,
    Failure,
    FailureKind,
    Outcome,
    Resources,
    Runner,
    RunnerState,
    Task,
    TaskState,
    Timeouts,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store import rows, schema
from megaflow_server.orchestrator.store.base import Store
from megaflow_server.orchestrator.store.engines import connect
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.orchestrator.store.opening import upgrade
from megaflow_server.orchestrator.store.sql import SqlStore
from megaflow_server.orchestrator.store.unit import SqlTransaction, _heads, _queued
from megaflow_server.orchestrator.store.work import Rows
from megaflow_server.orchestrator.transitions import EDGES
from mutants import Mutant, planted
from postgres_server import PostgresServer

TENANTS = ("ann", "bob")
POLICY = RetryPolicy(floor=2.0, refill=0.5, deaths=2)
SECONDS = st.sampled_from([None, None, 5.0, 20.0])
RESOURCES = st.builds(Resources, st.just(1), st.sampled_from([0.0, 0.5, 3.0]), st.just(0))
SPOILT = [FailureKind.WORKER_DIED, FailureKind.INFRASTRUCTURE]
OUTCOMES = st.one_of(
    st.builds(Outcome, st.just(True), st.floats(-1, 1), st.just({"solved": 1.0})),
    st.sampled_from(
        [*(kind for kind in FailureKind if kind is not FailureKind.AGENT), *SPOILT * 2]
    ).map(lambda kind: Outcome(False, failure=Failure(kind, "running", f"it was {kind}", "…\n"))),
)
DIED = Outcome(False, failure=Failure(FailureKind.WORKER_DIED, "running", "it died again"))


def _name(claimed: Claimed) -> str:
    return claimed.task.id


class Stores(RuleBasedStateMachine):
    """The first store is the model; the others must answer as it does."""

    jobs = Bundle("jobs")
    reached: ClassVar[Counter[str]] = Counter()  # each transition, over all examples

    def __init__(self) -> None:
        super().__init__()
        self.model = MemoryStore()
        self.engine = self.new_engine()
        self.stores: list[Store] = [self.model, SqlStore(self.engine)]
        self.now = 1000.0
        self.names: list[str] = []
        self.owners: dict[str, str] = {}  # of each job, its tenant
        self.tasks: dict[str, str] = {}  # and of each task
        # What would end or hinder everything happens only so often.
        self.left = Counter({"cancel": 2, "drain": 1, "expire": 4, "job": 4, "register": 9})
        self.old: set[tuple[str, int]] = set()  # every attempt there was

    # What there is to do something with: most rules choose from these, so that most of them do something.

    @property
    def every_runner(self) -> dict[str, Runner]:
        return self.model._tables["runners"]

    def known_runner(self, name: str) -> Runner:
        return self.every_runner[name]

    @property
    def live(self) -> list[str]:
        active = RunnerState.ACTIVE
        return sorted(one.id for one in self.every_runner.values() if one.state is active)

    @property
    def every_task(self) -> list[Task]:
        return [task for _, task in sorted(self.model._tables["tasks"].items())]

    @property
    def queued(self) -> list[Task]:
        return [task for task in self.every_task if task.state is TaskState.QUEUED]

    @property
    def retrying(self) -> list[Task]:
        return [task for task in self.every_task if task.state is TaskState.RETRYING]

    @property
    def limited(self) -> list[Task]:
        return [task for task in self.every_task if task.due != FOREVER]

    @property
    def open(self) -> list[tuple[str, int]]:
        every = self.model._tables["attempts"].items()
        return sorted(key for key, one in every if one.state is not AttemptState.CLOSED)

    def new_engine(self) -> sa.Engine:
        """A database without a record."""
        self.folder = tempfile.TemporaryDirectory()
        engine = connect(f"sqlite:///{Path(self.folder.name) / 'store.db'}")
        schema.metadata.create_all(engine)
        return engine

    def teardown(self) -> None:
        self.count()
        self.engine.dispose()
        self.folder.cleanup()

    def count(self) -> None:
        for event in self.model._events:
            self.reached[f"{event.before or 'new'} > {event.after}"] += 1
        for one in self.model._tables["attempts"].values():
            if one.outcome is not None and one.outcome.failure is not None:
                self.reached[one.outcome.failure.kind] += 1

    def ask(self, *commands: Command) -> list[Any]:
        """The answers to commands that go into one transaction; an error is an answer, too."""
        every = [self._ask(store, commands) for store in self.stores]
        assert all(one == every[0] for one in every[1:])
        return every[0]

    def _ask(self, store: Any, commands: tuple[Command, ...]) -> list[Any]:
        answers = carry_out(store, commands, lambda: self.now, POLICY)
        return [(type(one), str(one)) if isinstance(one, MegaflowError) else one for one in answers]

    def new_name(self, kind: str) -> str:
        self.names.append(f"{kind}{len(self.names)}")
        return self.names[-1]

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        name=st.sampled_from(TENANTS),
        weight=st.sampled_from([1.0, 3.0]),
        more=st.none() | st.integers(0, 3),
    )
    def set_tenant(self, name: str, weight: float, more: int | None) -> None:
        # A quota that falls below what runs ends nothing, so it is only ever raised here: see the invariant.
        known = self.model.tenant(name)
        most = None if more is None else more + (known.running if known else 0)
        self.ask(SetTenant(name, weight, most))

    @initialize(target=jobs)
    def begin_jobs(self) -> Any:
        return multiple(*(self.create_job(tenant, None) for tenant in TENANTS))

    @initialize(requests=RESOURCES, data=st.data(), rounds=st.integers(1, 4))
    def begin_tasks(self, requests: Resources, data: Any, rounds: int) -> None:
        """Every example has some life behind it before rules are chosen."""
        for slots in (2, 4):
            self.register(slots, 4.0)
        for job in list(self.owners.items()):
            self.add_tasks(job, [0, 1, 2], 1, Resources(1, 3.0, 0), Timeouts(), "")
            self.add_tasks(job, [3, 4, 5], 0, requests, Timeouts(), "")
        for _ in range(rounds):
            self.execute(data, 5)
            if self.retrying:
                self.retry(data)

    @precondition(lambda self: self.left["job"])
    @rule(target=jobs, tenant=st.sampled_from(TENANTS), deadline=SECONDS)
    def create_job(self, tenant: str, deadline: float | None) -> tuple[str, str]:
        moment = float("inf") if deadline is None else self.now + 10 * deadline
        command = CreateJob(self.new_name("job"), tenant, 7, deadline=moment)
        self.ask(command, command)
        self.owners[command.id] = tenant
        self.left["job"] -= 1
        return command.id, tenant

    @rule(
        job=jobs,
        indices=st.lists(st.integers(0, 9), max_size=4, unique=True),
        priority=st.integers(0, 2),
        requests=RESOURCES,
        timeouts=st.builds(Timeouts, SECONDS, SECONDS, SECONDS),
        key=st.sampled_from(["", "", "k1", "k2"]),
    )
    def add_tasks(
        self,
        job: tuple[str, str],
        indices: list[int],
        priority: int,
        requests: Resources,
        timeouts: Timeouts,
        key: str,
    ) -> None:
        new = tuple(
            NewTask(
                index,
                f'{{"env": "E{index % 3}"}}',
                priority=priority,
                requests=requests,
                timeouts=timeouts,
                key=key and f"{key}-{index}",
                environment=f"E{index % 3}" if index % 3 else "",
            )
            for index in indices
        )
        (ids,) = self.ask(AddTasks(*job, new))
        if isinstance(ids, list):
            self.tasks.update(dict.fromkeys(ids, job[1]))

    @rule(job=jobs)
    def seal_job(self, job: tuple[str, str]) -> None:
        self.ask(SealJob(*job))

    @precondition(lambda self: self.left["cancel"])
    @rule(job=jobs, most=st.integers(1, 4), foreign=st.booleans())
    def cancel_job(self, job: tuple[str, str], most: int, foreign: bool) -> None:
        self.left["cancel"] -= 1
        self.ask(CancelJob(job[0], "eve" if foreign else job[1], most=most))

    @precondition(lambda self: self.tasks and self.left["cancel"])
    @rule(data=st.data())
    def cancel_task(self, data: Any) -> None:
        self.left["cancel"] -= 1
        name = data.draw(st.sampled_from(sorted(self.tasks)))
        self.ask(CancelTask(name, self.tasks[name]))

    @precondition(lambda self: self.left["register"])
    @rule(slots=st.integers(0, 4), cpu=st.sampled_from([0.0, 1.0, 8.0]))
    def register(self, slots: int, cpu: float) -> None:
        self.left["register"] -= 1
        command = RegisterRunner(self.new_name("runner"), Resources(slots, cpu, 0))
        self.ask(command, command)

    @precondition(lambda self: self.every_runner)
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        self.ask(Renew(data.draw(st.sampled_from(sorted(self.every_runner)))))

    @precondition(lambda self: self.left["drain"] and self.live)
    @rule(data=st.data())
    def drain(self, data: Any) -> None:
        self.left["drain"] -= 1
        self.ask(DrainRunner(data.draw(st.sampled_from(self.live))))

    @precondition(lambda self: self.every_runner and self.left["expire"])
    @rule(data=st.data(), stale=st.sampled_from([False, False, True]), most=st.integers(1, 3))
    def expire(self, data: Any, stale: bool, most: int) -> None:
        runner = data.draw(st.sampled_from(sorted(self.every_runner)))
        self.left["expire"] -= 1
        self.ask(ExpireRunner(runner, self.known_runner(runner).renewals - stale, most))
        if not self.live:
            self.register(3, 4.0)

    @precondition(lambda self: self.queued and self.live)
    @rule(data=st.data(), most=st.integers(1, 5))
    def execute(self, data: Any, most: int) -> None:
        """A runner claims, and of what it is given some comes to its end, some not so far."""
        for one in self.claim(data.draw(st.sampled_from(self.live)), most):
            deadly = one.task.worker_deaths > 0 and data.draw(st.booleans())
            far = 3 if deadly else data.draw(st.sampled_from([0, 1, 2, 3, 3, 3]))
            name, fence = one.task.id, one.task.fence
            self.ask(
                *(Advance(name, fence, evaluating, "w1") for evaluating in (False, True)[:far])
            )
            if far == 3:
                peak = Resources(1, 0.5 * fence, 1000 // fence) if one.task.index % 4 else None
                self.ask(Finish(name, fence, DIED if deadly else data.draw(OUTCOMES), peak))
                self.reads_the_same(one.task)

    @precondition(lambda self: self.queued)
    @rule(data=st.data(), most=st.integers(1, 5))
    def ask_for_work(self, data: Any, most: int) -> None:
        self.claim(data.draw(st.sampled_from(sorted(self.every_runner))), most)

    def claim(self, runner: str, most: int) -> list[Claimed]:
        request = self.known_runner(runner).claims + 1
        claimed, again = self.ask(Claim(runner, most, request), Claim(runner, most, request))
        if isinstance(claimed, tuple):  # refused
            return []
        assert sorted(again, key=_name) == sorted(claimed, key=_name)
        (late,) = self.ask(Claim(runner, most, request - 1))
        assert late == []
        self.old.update((one.task.id, one.task.fence) for one in claimed)
        found: list[Claimed] = claimed
        return found

    @precondition(lambda self: self.open)
    @rule(data=st.data(), evaluating=st.booleans())
    def advance(self, data: Any, evaluating: bool) -> None:
        task, fence = data.draw(st.sampled_from(self.open))
        self.ask(Advance(task, fence, evaluating, worker="w1"))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), outcome=OUTCOMES)
    def finish(self, data: Any, outcome: Outcome) -> None:
        task, fence = data.draw(st.sampled_from(self.open))
        command = Finish(task, fence, outcome)
        first, second = self.ask(command, command)
        assert first.accepted == second.accepted

    @precondition(lambda self: self.old)
    @rule(data=st.data(), outcome=OUTCOMES)
    def report_late(self, data: Any, outcome: Outcome) -> None:
        """Whatever attempt there ever was, also one that is closed."""
        task, fence = data.draw(st.sampled_from(sorted(self.old)))
        self.ask(Advance(task, fence), Finish(task, fence, outcome))

    @precondition(lambda self: self.retrying)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        """Retries' time has come, and all of them are executed again."""
        self.now = max(self.now, *(task.not_before for task in self.retrying))
        self.ask(Wake(100))
        if self.live:
            self.execute(data, 5)

    @precondition(lambda self: self.limited)
    @rule()
    def limits_are_reached(self) -> None:
        self.now = max(self.now, min(task.due for task in self.limited))
        self.ask(Wake(100))

    @rule(most=st.integers(1, 5))
    def wake(self, most: int) -> None:
        self.ask(Wake(most))

    @invariant()
    def all_stores_hold_the_same(self) -> None:
        for store in self.stores[1:]:
            assert store.counts() == self.model.counts()
            assert store.runners() == self.model.runners()

    @rule()
    def everything_reads_the_same(self) -> None:
        for store in self.stores[1:]:
            for job in self.owners:
                assert store.results(job, 1, 3) == self.model.results(job, 1, 3)
                assert list(store.job_attempts(job)) == list(self.model.job_attempts(job))
                assert store.states(job) == self.model.states(job)
            for tenant in TENANTS:
                assert store.jobs(tenant, 3) == self.model.jobs(tenant, 3)
            assert store.tenants() == self.model.tenants()
            assert store.waiting() == self.model.waiting()
            for place in itertools.product(TENANTS, ("E1", "E2")):
                assert store.find_peak(*place) == self.model.find_peak(*place)
            for task in self.queued[:2]:
                assert store.ahead(task) == self.model.ahead(task)
                assert store.find_task(task.id) == task
                assert store.history(task.id) == self.model.history(task.id)

    def reads_the_same(self, task: Task) -> None:
        """What an end has changed, at once: much later, few examples would tell."""
        place = task.tenant, task.environment
        for store in self.stores[1:]:
            assert store.find_task(task.id) == self.model.find_task(task.id)
            assert store.find_peak(*place) == self.model.find_peak(*place)

    @invariant()
    def what_is_open_is_what_is_counted(self) -> None:
        attempts = self.model._tables["attempts"].values()
        held = [one for one in attempts if one.state is not AttemptState.CLOSED]
        running = Counter(one.tenant for one in held)
        for tenant in self.model._tables["tenants"].values():
            assert tenant.running == running[tenant.name]
            assert tenant.most is None or tenant.running <= tenant.most
        slots = Counter(one.runner for one in held)
        for runner in self.model._tables["runners"].values():
            assert runner.used.slots == slots[runner.id]
            assert runner.used.fits(runner.capacity)

    @invariant()
    def every_task_ends_once(self) -> None:
        for job in self.model._tables["jobs"].values():
            done = self.model.results(job.id, 0, 1000)
            assert [task.done for task in done] == list(range(1, job.done + 1))
            assert all(task.state in TERMINAL and task.outcome is not None for task in done)
        for name in self.tasks:
            self._one_attempt_at_most_is_wanted(self.model._tables["tasks"][name])

    def _one_attempt_at_most_is_wanted(self, task: Task) -> None:
        attempts = [self.model.attempt(task.id, fence) for fence in range(1, task.fence + 1)]
        held = [one for one in attempts if one is not None and one.state is AttemptState.OPEN]
        assert [one.fence for one in held] == ([task.fence] if task.state in ACTIVE else [])
        accepted = [one for one in attempts if one is not None and one.accepted]
        assert len([one for one in accepted if one.outcome and one.outcome.valid]) <= 1

    @invariant()
    def events_follow_the_edges(self) -> None:
        for name in self.tasks:
            history = self.model.history(name)
            assert history[0].before is None
            for before, event in itertools.pairwise(history):
                assert event.before is before.after
                assert event.after in EDGES[before.after]
            assert history[-1].after is self.model._tables["tasks"][name].state


class StoresOnPostgres(Stores):
    """The same with PostgreSQL; `database` is set once there is a server."""

    database: sa.Engine

    def new_engine(self) -> sa.Engine:
        with self.database.begin() as connection:
            for table in schema.metadata.sorted_tables:
                connection.execute(sa.delete(table))
        return self.database

    def teardown(self) -> None:
        """The server goes on for the next."""
        self.count()


class ModelAlone(Stores):
    """What examples reach, without the time that a database takes."""

    def new_engine(self) -> sa.Engine:
        return sa.create_engine("sqlite://")

    def __init__(self) -> None:
        super().__init__()
        self.stores = [self.model]
        self.folder = tempfile.TemporaryDirectory()


@pytest.mark.long
def test_sqlite_answers_as_the_model() -> None:
    run_state_machine_as_test(Stores, settings=settings(max_examples=60, stateful_step_count=50))


@pytest.mark.long
@pytest.mark.requires("postgres")
def test_postgresql_answers_as_the_model(postgres: PostgresServer) -> None:
    StoresOnPostgres.database = connect(postgres.url)
    try:
        upgrade(StoresOnPostgres.database)
        run_state_machine_as_test(
            StoresOnPostgres, settings=settings(max_examples=40, stateful_step_count=50)
        )
    finally:
        StoresOnPostgres.database.dispose()


@pytest.mark.long
def test_examples_go_everywhere() -> None:
    """Claims, retries, quarantines, limits, losses and cancellations: often enough to find what is wrong with them."""
    ModelAlone.reached.clear()
    always = settings(max_examples=400, stateful_step_count=50, derandomize=True, database=None)
    run_state_machine_as_test(ModelAlone, settings=always)
    reached = ModelAlone.reached
    assert reached["queued > starting"] >= 1000
    for after in (*TERMINAL, TaskState.RETRYING, TaskState.EVALUATING):
        assert sum(times for name, times in reached.items() if name.endswith(f"> {after}")) >= 15, (
            after
        )
    rare = {
        FailureKind.AGENT,
        FailureKind.CANCELLED,
    }  # which runners alone report; they end as any other
    assert all(reached[kind] >= 10 for kind in set(FailureKind) - rare), reached


# What makes a database differ from the model, each of them once.
DIFFERENCES = [
    Mutant(_queued, "order_by(*_ORDER)", "order_by(_tasks.order.desc())"),
    Mutant(SqlTransaction.heads, "> sa.tuple_", "< sa.tuple_"),
    Mutant(SqlTransaction.heads, "(-one.priority,", "(one.priority,"),
    Mutant(SqlTransaction.due, "_tasks.due <= now", "_tasks.due < now"),
    Mutant(SqlTransaction.unfinished, "_tasks.done == 0", "_tasks.done >= 0"),
    Mutant(SqlTransaction.open_attempts, "if state is None", "if True"),
    Mutant(SqlTransaction.put_submission, "self._submissions.put((tenant, key), row)", "pass"),
    Mutant(SqlStore.results, "_tasks.done > after", "_tasks.done >= after"),
    Mutant(SqlStore.runners, "!= RunnerState.GONE.value", "!= 'nothing'"),
    Mutant(rows.task_row, '"worker_deaths": task.worker_deaths', '"worker_deaths": 0'),
    Mutant(rows.task_row, '"due": _or_none(task.due)', '"due": None'),
    Mutant(rows.task_from, 'queued=row["queued"]', "queued=0.0"),
    Mutant(rows.attempt_row, '"accepted": attempt.accepted', '"accepted": False'),
    Mutant(rows.attempt_row, '"alone": attempt.alone', '"alone": False'),
    Mutant(rows.runner_row, '"claims": runner.claims', '"claims": 0'),
    Mutant(rows._outcome_text, '"rewards": dict(outcome.rewards)', '"rewards": {}'),
    Mutant(rows.task_from, 'environment=row["environment"]', 'environment=""'),
    Mutant(SqlTransaction.put_peak, "(peak.tenant, peak.environment)", "(peak.tenant, 'E1')"),
    Mutant(Rows.flush, "if old:", "if False:"),
    Mutant(Rows.find, "if self._known.get(key) is None:", "if False:"),
]


@pytest.mark.long
@pytest.mark.parametrize("difference", DIFFERENCES, ids=str)
def test_a_store_that_differs_is_noticed(difference: Mutant) -> None:
    plain = settings(
        max_examples=300,
        stateful_step_count=50,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
    )
    _heads.cache_clear()
    try:
        with (
            planted(difference),
            pytest.raises((AssertionError, sa.exc.DBAPIError, Unavailable, KeyError)),
        ):
            run_state_machine_as_test(Stores, settings=plain)
    finally:
        _heads.cache_clear()
