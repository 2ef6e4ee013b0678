from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

import megaflow
from megaflow import (
    Amount,
    AsyncClient,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Limits,
    NotFound,
    Resources,
    Task,
)
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.orchestrator.commands import SetTenant
from megaflow_server.orchestrator.records import Peak
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.opening import open_store
from megaflow_server.worker import in_process
from runner_rig import FakeRunner, died, solved, working

CARTPOLE = Task("CartPole-v1", "random")


class Scene:
    """A gateway that keeps tasks in SQLite, and a client of it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder, self._stack = folder, stack

    async def start(self, **options: Any) -> None:
        self.store = open_store(f"sqlite:///{self.folder / 'tasks.db'}")
        self._stack.callback(self.store.close)
        self.orchestrator = await self._stack.enter_async_context(
            Orchestrator(self.store, **options)
        )
        settings = GatewaySettings(
            folder=self.folder,
            listen=[f"unix:{self.folder / 'g.sock'}"],
            max_workers=1,
            warm_workers=1,
            stop_grace=0.1,
        )
        self.gateway = await self._stack.enter_async_context(
            Gateway(settings, FakeBackend(in_process.run), self.orchestrator)
        )
        (self.address,) = self.gateway.addresses
        self.client = await self._stack.enter_async_context(AsyncClient(self.address))

    async def runner(self, name: str = "r", slots: int = 100) -> FakeRunner:
        return await self._stack.enter_async_context(FakeRunner(self.address, name, slots))

    @asynccontextmanager
    async def at_work(self, runner: FakeRunner, executed: Any = solved) -> AsyncIterator[None]:
        work = await working(runner, executed)
        try:
            yield
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        scene = Scene(tmp_path, stack)
        await scene.start()
        yield scene


async def test_results_come_in_the_order_in_which_tasks_end(scene: Scene) -> None:
    job = await scene.client.submit([CARTPOLE] * 20, samples=3, name="twenty", seed=7)
    async with scene.at_work(await scene.runner()):
        results = [result async for result in job.results(timeout=30)]
    assert [result.done for result in results] == list(range(1, 61))
    assert {(result.index, result.sample) for result in results} == {
        (index, sample) for index in range(20) for sample in range(3)
    }
    assert all(result.valid and result.reward == 1.0 for result in results)
    assert len({result.seed for result in results}) == 60
    assert {result.group for result in results} == {str(index) for index in range(20)}
    again = await scene.client.job("twenty")
    assert again.id == job.id
    assert [result async for result in again.results(after=58)] == results[58:]
    status = await job.wait(timeout=1)
    assert status.complete
    assert status.states == {"succeeded": 60}


async def test_some_samples_alone_have_the_places_and_seeds_that_they_have_among_all(
    scene: Scene,
) -> None:
    whole = await scene.client.submit([CARTPOLE] * 3, samples=2, seed=7)
    only = {(1, 0), (2, 1)}
    part = await scene.client.submit([CARTPOLE] * 3, samples=2, seed=7, only=only)
    async with scene.at_work(await scene.runner()):
        seeds = [
            {(one.index, one.sample): one.seed async for one in job.results(timeout=30)}
            for job in (whole, part)
        ]
    assert seeds[1].keys() == only
    assert seeds[0] | seeds[1] == seeds[0]
    assert (await part.status()).total == 2


async def test_a_status_names_the_tasks_that_runners_have(scene: Scene) -> None:
    job = await scene.client.submit([CARTPOLE] * 3)
    runner = await scene.runner(slots=2)
    claimed = await runner.claim(2)
    active = (await job.status()).active
    assert {(one.id, one.state) for one in active} == {(one.task_id, "starting") for one in claimed}
    assert all(0 <= one.seconds < 60 for one in active)
    assert (await scene.client.jobs())[0].active == ()
    await runner.finish(claimed)
    assert (await job.status()).active == ()


async def test_seeds_follow_from_the_jobs_or_the_tasks(scene: Scene) -> None:
    async with scene.at_work(await scene.runner()):
        seeds = []
        for tasks in ([CARTPOLE, Task("CartPole-v1", "random", seed=5)], [CARTPOLE, CARTPOLE]):
            job = await scene.client.submit(tasks, seed=7)
            found = [result async for result in job.results(timeout=30)]
            seeds.append({result.index: result.seed for result in found})
    assert seeds[0][0] == seeds[1][0]
    assert seeds[0][1] != seeds[1][1]


async def test_a_waiting_claim_is_given_what_is_submitted_later(scene: Scene) -> None:
    runner = await scene.runner()
    assert await runner.claim() == []
    waiting = asyncio.create_task(runner.claim(wait=30.0))
    await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await scene.client.submit([CARTPOLE])
    (attempt,) = await waiting
    assert loop.time() - begun < 10
    assert (attempt.fence, attempt.tenant) == (1, "local")


async def test_a_repeated_claim_is_given_the_same(scene: Scene) -> None:
    await scene.client.submit([CARTPOLE] * 3)
    runner = await scene.runner()
    first = await runner.claim(2, request=1)
    assert await runner.claim(2, request=1) == first
    assert len(await runner.claim(2, request=2)) == 1


async def test_only_the_newest_fence_writes(scene: Scene) -> None:
    job = await scene.client.submit([CARTPOLE])
    runner = await scene.runner()
    (first,) = await runner.claim()
    (verdict,) = await runner.finish([first], died)
    assert verdict.accepted
    second = await runner.some()
    assert second.fence == first.fence + 1
    (late,) = await runner.finish([first])
    assert not late.accepted
    (verdict,) = await runner.finish([second])
    assert verdict.accepted
    (result,) = [result async for result in job.results(timeout=30)]
    assert (result.valid, result.retries) == (True, 1)


@pytest.mark.long
async def test_who_was_in_a_worker_that_died_is_tried_alone_from_then_on(scene: Scene) -> None:
    """So that only the one that is to blame dies again, however many it shared the worker with."""
    job = await scene.client.submit([CARTPOLE] * 20)
    runner = await scene.runner()
    shared = await runner.claim(20)
    assert not any(one.alone for one in shared)
    await runner.finish(shared, died)
    alone: list[pb.Attempt] = []
    async with asyncio.timeout(60):
        while len(alone) < 16:
            alone += await runner.claim(20, wait=1.0)
    assert all(one.alone for one in alone)
    assert await runner.claim(20, wait=2.0) == []  # no more of them at once
    guilty = alone[-1].task_id

    def executed(attempt: pb.Attempt) -> pb.Outcome:
        return (died if attempt.task_id == guilty else solved)(attempt)

    await runner.finish(alone, executed)
    async with scene.at_work(runner, executed):
        results = [result async for result in job.results(timeout=60)]
    quarantined = [one.task_id for one in results if one.state == "quarantined"]
    assert quarantined == [guilty]
    assert sum(one.valid for one in results) == 19


async def test_what_infrastructure_spoils_has_no_reward(scene: Scene) -> None:
    job = await scene.client.submit([CARTPOLE])
    async with scene.at_work(await scene.runner(), died):
        (result,) = [result async for result in job.results(timeout=60)]
    assert (result.state, result.valid, result.reward) == ("quarantined", False, None)
    assert result.failure is not None
    assert result.failure.kind == "worker_died"
    assert "3 workers died" in result.failure.reason
    assert result.failure.log == "…\n"


async def test_cancelling_a_job_ends_it_and_stops_what_runs(scene: Scene) -> None:
    job = await scene.client.submit([CARTPOLE] * 2500)
    runner = await scene.runner()
    running = await runner.claim(5)
    status = await job.cancel("enough")
    assert status.states == {"cancelled": 2500}
    assert (await job.wait(timeout=1)).complete
    assert await runner.renew() == [(one.task_id, one.fence) for one in running]
    verdicts = await runner.finish(running)
    assert not any(verdict.accepted for verdict in verdicts)
    assert await runner.renew() == []
    results = [result async for result in job.results()]
    assert {result.failure.reason for result in results if result.failure} == {"enough"}


async def test_why_says_what_a_task_waits_for(scene: Scene) -> None:
    job = await scene.client.submit([CARTPOLE] * 3)
    task = f"{job.id}/2"
    why = await scene.client.why(task)
    assert (why.state, why.job_id) == ("queued", job.id)
    assert why.waits_for == (
        "a runner: none is registered",
        "2 tasks of local, older or of a higher priority",
    )
    runner = await scene.runner(slots=1)
    (first,) = await runner.claim()
    assert (await scene.client.why(task)).waits_for[0].startswith("room: the 1 runners")
    await scene.orchestrator.ask(SetTenant("local", most=1))
    assert "running=1 is the most" in (await scene.client.why(task)).waits_for[1]
    (waits,) = (await scene.client.why(first.task_id)).waits_for
    assert waits == "its environment, which is being made for 0 s"
    await runner.finish([first], died)
    why = await scene.client.why(first.task_id)
    assert why.state == "retrying"
    assert "out of memory" in why.waits_for[0]
    assert [event.after for event in why.events] == ["queued", "starting", "retrying"]
    large = await scene.client.submit(
        [Task("CartPole-v1", "random", resources=Resources(requests=Amount(cpu=8)))]
    )
    assert "larger runner" in (await scene.client.why(f"{large.id}/0")).waits_for[0]


async def test_one_task_of_a_key_however_often_it_is_submitted(scene: Scene) -> None:
    task = Task("CartPole-v1", "random", idempotency_key="k")
    await asyncio.gather(*(scene.client.submit([task]) for _ in range(50)))
    counts = await scene.orchestrator.read(lambda store: store.counts())
    assert [count for _, _, count in counts] == [1]
    with pytest.raises(FailedPrecondition, match="idempotency_key='k'"):
        await scene.client.submit([Task("CartPole-v1", "other", idempotency_key="k")])


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [
        (Task("CartPole-v2", "random"), NotFound, "tasks.0..env='CartPole-v2'.*CartPole-v1"),
        (Task("os:system", "random"), InvalidArgument, "tasks.0..env='os:system'.*--allow-import"),
        (Task("../CartPole", "random"), InvalidArgument, "tasks.0..env"),
        (Task("CartPole-v1", "a\nb"), InvalidArgument, "tasks.0..agent"),
        (Task("CartPole-v1", ""), InvalidArgument, "tasks.0..agent"),
        (Task("CartPole-v1", "a", group="\x1b[31m"), InvalidArgument, "tasks.0..group"),
        (Task("CartPole-v1", "a", group="../../etc"), InvalidArgument, "tasks.0..group"),
        (Task("CartPole-v1", "a", priority=10**6), InvalidArgument, "tasks.0..priority"),
        (Task("CartPole-v1", "a", idempotency_key="x\ty"), InvalidArgument, "idempotency_key"),
        (Task("CartPole-v1", "a", mode="fast"), InvalidArgument, "tasks.0..mode"),  # type: ignore[arg-type]
        (
            Task("CartPole-v1", "a", limits=Limits(start_to_close=float("nan"))),
            InvalidArgument,
            "tasks.0..limits.start_to_close=nan",
        ),
        (Task("CartPole-v1", "a", env_kwargs={"x": float("inf")}), InvalidArgument, "env_kwargs"),
        (Task("CartPole-v1", "a", env_kwargs={"x": object()}), InvalidArgument, "env_kwargs"),
        (Task("CartPole-v1", "a", models={"p\n": "x"}), InvalidArgument, "tasks.0..models"),
        (
            Task("CartPole-v1", "a", resources=Resources(Amount(2.0), Amount(1.0))),
            InvalidArgument,
            "requests.cpu=2 is over its limit",
        ),
    ],
)
async def test_bad_tasks_are_refused_by_the_fields_name(
    scene: Scene, task: Task, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await scene.client.submit([task])
    # Nothing of it is left to run.
    states = [state for _, state, _ in await scene.orchestrator.read(lambda store: store.counts())]
    assert states == []


async def test_what_a_client_does_not_check_the_server_does(scene: Scene) -> None:
    connection = await scene.client._open()
    with pytest.raises(InvalidArgument, match="tasks: 1000001"):
        await connection.ask("CreateJob", pb.CreateJobRequest(job_id="j", tasks=1_000_001))
    for job_id in ("", "a/b", "..", "x" * 65, "a\nb"):
        with pytest.raises(InvalidArgument, match="job_id="):
            await connection.ask("CreateJob", pb.CreateJobRequest(job_id=job_id))
    await connection.ask("CreateJob", pb.CreateJobRequest(job_id="j"))

    def task(**fields: Any) -> pb.AddTasksRequest:
        new = pb.NewTask(environment="CartPole-v1", agent="random", **fields)
        return pb.AddTasksRequest(job_id="j", tasks=[new])

    for fields, words in (
        ({"limits": pb.TaskLimits(schedule_to_start=float("nan"))}, "schedule_to_start=nan"),
        ({"limits": pb.TaskLimits(schedule_to_close=-1.0)}, "schedule_to_close=-1.0"),
        ({"requests": pb.Amount(cpu=float("inf"))}, "requests.cpu=inf"),
        ({"env_kwargs": '{"x": NaN}'}, "env_kwargs"),
        ({"env_kwargs": '{"x": 1e999}'}, "env_kwargs"),
        ({"env_kwargs": "[" * 100_000}, "env_kwargs"),
        ({"agent_kwargs": "[]"}, "agent_kwargs"),
        ({"index": 1_000_000}, "index=1000000"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            await connection.ask("AddTasks", task(**fields))
    many = pb.AddTasksRequest(job_id="j", tasks=[task().tasks[0]] * 1001)
    with pytest.raises(InvalidArgument, match="1001 in one call"):
        await connection.ask("AddTasks", many)


async def test_a_million_and_one_tasks_are_refused_before_anything_is_sent(scene: Scene) -> None:
    with pytest.raises(InvalidArgument, match="tasks: 1,000,001"):
        await scene.client.submit([CARTPOLE] * 1_000_001)
    with pytest.raises(InvalidArgument, match="tasks: 1,000,002"):
        await scene.client.submit([CARTPOLE] * 500_001, samples=2)
    assert await scene.client.jobs() == []


async def test_tasks_are_taken_no_faster_than_they_are_stored(scene: Scene) -> None:
    taken = 0

    async def tasks() -> AsyncIterator[Task]:
        nonlocal taken
        for _ in range(10_000):
            stored = sum(count for *_, count in scene.store.counts()) if taken % 500 == 0 else taken
            assert taken - stored <= 2001
            taken += 1
            yield CARTPOLE

    job = await scene.client.submit(tasks())
    assert (await job.status()).total == 10_000


async def test_a_report_that_contradicts_itself_is_refused_alone(scene: Scene) -> None:
    job = await scene.client.submit([CARTPOLE] * 2)
    runner = await scene.runner()
    one, two = await runner.claim(2)
    bad = pb.Outcome(valid=False, reward=0.0)
    wrong, right = await runner.report(
        pb.AttemptReport(task_id=one.task_id, fence=one.fence, outcome=bad),
        pb.AttemptReport(task_id=two.task_id, fence=two.fence, outcome=solved(two)),
    )
    assert (wrong.error.kind, right.accepted) == ("InvalidArgument", True)
    assert (await job.status()).done == 1


async def test_what_attempts_used_is_kept_by_environment_and_nonsense_refused(scene: Scene) -> None:
    await scene.client.submit([CARTPOLE] * 2)
    runner = await scene.runner()
    first, second = await runner.claim(2)

    def report(one: pb.Attempt, cpu: float) -> pb.AttemptReport:
        peak = pb.Amount(cpu=cpu, memory=2**20)
        return pb.AttemptReport(
            task_id=one.task_id, fence=one.fence, outcome=solved(one), peak=peak
        )

    good, bad = await runner.report(report(first, 0.5), report(second, math.nan))
    assert good.accepted
    assert "peak.cpu" in bad.error.message
    assert scene.store.find_peak("local", "CartPole-v1") == Peak(
        "local", "CartPole-v1", 1, 0.5, 2**20
    )


async def test_waiting_ends_at_its_timeout(scene: Scene) -> None:
    job = await scene.client.submit([CARTPOLE])
    with pytest.raises(DeadlineExceeded, match="timeout: job"):
        await job.wait(timeout=0.1)
    with pytest.raises(DeadlineExceeded, match="timeout: no result"):
        [result async for result in job.results(timeout=0.1)]
    await (await scene.client.submit([])).wait(timeout=0.1)


async def test_a_limit_that_is_reached_is_told_by_its_name(scene: Scene) -> None:
    task = Task("CartPole-v1", "random", limits=Limits(schedule_to_start=0.3))
    job = await scene.client.submit([task])
    (result,) = [result async for result in job.results(timeout=10)]
    assert result.failure is not None
    assert (result.failure.kind, result.reward) == ("timeout", None)
    assert result.failure.reason.startswith("schedule_to_start: 0.3 s")


async def test_a_runner_that_renews_no_more_is_given_up(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        scene = Scene(tmp_path, stack)
        await scene.start(expires=1.5)
        job = await scene.client.submit([CARTPOLE])
        lost = await scene.runner("lost")
        assert len(await lost.claim()) == 1
        async with scene.at_work(await scene.runner("other")):
            (result,) = [result async for result in job.results(timeout=30)]
        assert (result.valid, result.retries) == (True, 0)
        assert scene.orchestrator.figures.expired >= 1


async def test_blocking_clients_have_the_same(scene: Scene) -> None:
    def use() -> list[megaflow.Result]:
        with megaflow.Client(scene.address) as client:
            job = client.submit(iter([CARTPOLE] * 5), samples=2)
            assert client.job(job.id).id == job.id
            assert [status.id for status in client.jobs()] == [job.id]
            results: Iterator[megaflow.Result] = job.results(timeout=30)
            assert client.why(f"{job.id}/0").job_id == job.id
            found = list(results)
            assert job.wait().complete
            assert job.cancel().states == {"succeeded": 10}
            return found

    async with scene.at_work(await scene.runner()):
        assert len(await asyncio.to_thread(use)) == 10


async def test_a_server_that_is_told_to_leave_hands_out_nothing_from_then_on(scene: Scene) -> None:
    busy, idle = await scene.runner("busy"), await scene.runner("idle")
    await scene.client.submit([CARTPOLE])
    (attempt,) = await busy.claim()
    assert await idle.claim() == []
    waiting = asyncio.create_task(idle.claim(wait=30.0))
    await asyncio.sleep(0.05)
    # A session that does not end keeps the server for as long as it may.
    async with AsyncClient(scene.address) as client:
        env = await client.make("CartPole-v1")
        hurry = asyncio.Event()
        draining = asyncio.create_task(scene.gateway.drain(grace=30.0, hurry=hurry))
        with pytest.raises(grpc.aio.AioRpcError, match="draining") as refused:
            async with asyncio.timeout(5):
                await waiting
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        # It takes tasks still, and gives none away; what is being executed is heard of.
        await scene.client.submit([CARTPOLE])
        with pytest.raises(grpc.aio.AioRpcError, match="draining"):
            await idle.claim()
        assert await busy.renew() == []
        (verdict,) = await busy.finish([attempt])
        assert verdict.accepted
        assert not draining.done()
        hurry.set()
        await draining
        await env.close()


async def test_a_server_without_a_store_says_so(tmp_path: Path) -> None:
    settings = GatewaySettings(
        folder=tmp_path, listen=[f"unix:{tmp_path / 'g.sock'}"], max_workers=1, warm_workers=1
    )
    async with (
        Gateway(settings, FakeBackend(in_process.run)) as gateway,
        AsyncClient(gateway.addresses[0]) as client,
    ):
        with pytest.raises(FailedPrecondition, match="--store"):
            await client.submit([CARTPOLE])


async def test_a_submission_that_is_interrupted_leaves_no_job_that_waits_for_more(
    scene: Scene,
) -> None:
    stored = asyncio.Event()

    async def tasks() -> AsyncIterator[Task]:
        for _ in range(2_000):
            yield CARTPOLE
        stored.set()
        await asyncio.Event().wait()

    submitting = asyncio.create_task(scene.client.submit(tasks(), name="awaited"))
    await stored.wait()
    submitting.cancel()
    with suppress(asyncio.CancelledError):
        await submitting

    def interrupted() -> Iterator[Task]:
        for _ in range(2_000):
            yield CARTPOLE
        raise KeyboardInterrupt

    def submit() -> None:
        with (
            megaflow.Client(scene.gateway.addresses[0]) as client,
            suppress(KeyboardInterrupt),
        ):
            client.submit(interrupted(), name="called")

    await asyncio.to_thread(submit)
    for name in ("awaited", "called"):
        status = await (await scene.client.job(name)).status()
        assert (status.cancelled, status.complete) == (True, True), status
