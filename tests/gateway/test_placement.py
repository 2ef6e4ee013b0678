"""Whose worker is whose: never shared between principals, not even one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaflow.errors import ResourceExhausted
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.supervisor import Supervisor
from megaflow_server.gateway.workers import WorkerHandle
from worker_settings import settings_of

PATIENCE = 20.0


class Rig:
    """A supervisor over instances without a body: workers that are always on their way."""

    def __init__(
        self, folder: Path, *, each: int, most: int, max_sessions: int | None = None
    ) -> None:
        self.backend = FakeBackend()
        self.dead: list[WorkerHandle] = []
        self.supervisor = Supervisor(
            self.backend,
            settings_of(folder, max_sessions),
            workers_each=each,
            max_workers=most,
            on_death=self.dead.append,
            on_closed=lambda _: None,
        )

    def open(self, principal: str, count: int = 1) -> list[WorkerHandle]:
        workers = self.supervisor.workers_for(principal, count)
        for worker in workers:
            worker.place(1)
        return workers

    async def running(self) -> int:
        return len(await self.backend.list({}))


Start = Callable[..., Rig]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        def started(**options: int | None) -> Rig:
            rig = Rig(tmp_path, **options)  # type: ignore[arg-type]
            stack.push_async_callback(rig.supervisor.stop, grace=0.0)
            return rig

        yield started


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  # deaths of instances set no event here
            await asyncio.sleep(0.005)


async def test_principals_never_share_a_worker(start: Start) -> None:
    rig = start(each=2, most=4)
    a, b = rig.open("a", 2), rig.open("b", 2)
    assert {worker.owner for worker in a} == {"a"}
    assert {worker.owner for worker in b} == {"b"}
    assert not set(a) & set(b)


async def test_each_principal_has_so_many_at_most(start: Start) -> None:
    rig = start(each=2, most=8)
    assert len(rig.open("a", 5)) == 2
    assert len(set(rig.open("a")) | set(rig.open("a"))) == 2
    assert len(rig.supervisor.workers) == 2


async def test_warm_workers_are_for_whoever_comes_first(start: Start) -> None:
    rig = start(each=2, most=4)
    rig.supervisor.warm(2)
    warm = rig.supervisor.workers
    assert [worker.owner for worker in warm] == [None, None]
    assert rig.open("a") == [warm[0]]
    assert rig.open("b") == [warm[1]]


async def test_a_question_claims_nothing(start: Start) -> None:
    rig = start(each=2, most=2)
    rig.supervisor.warm(1)
    worker = rig.supervisor.any_for("a")
    assert worker.owner is None
    (own,) = rig.open("b")
    assert own is worker
    assert rig.supervisor.any_for("b") is own
    assert rig.supervisor.any_for("a") is not own


async def test_without_room_it_says_when_to_come_back(start: Start) -> None:
    rig = start(each=2, most=2)
    rig.open("a", 2)
    with pytest.raises(ResourceExhausted, match=r"'b': all 2 .*max_workers") as caught:
        rig.open("b")
    assert caught.value.retry_after
    assert "'a'" not in str(caught.value)
    assert len(rig.open("a")) == 1


async def test_an_empty_worker_makes_room_and_is_never_handed_on(start: Start) -> None:
    rig = start(each=2, most=2)
    first, second = rig.open("a", 2)
    await eventually(lambda: len(rig.backend._instances) == 2)
    second.release(1)
    (fresh,) = rig.open("b")
    assert fresh not in (first, second)
    assert (fresh.owner, fresh.slot) == ("b", second.slot)
    await eventually(lambda: second in rig.dead)
    assert "another principal needs its place" in str(second.loss)
    assert first.loss is None
    # The old one was gone before the new one came.
    await eventually(lambda: fresh.instance_id in rig.backend._instances)
    calls = rig.backend.calls
    assert calls.index(("destroy", second.instance_id)) < calls.index(("create", fresh.instance_id))
    # The one that lost its place has to wait for another.
    assert rig.open("a") == [first]


async def test_the_one_that_is_empty_for_longest_goes(start: Start) -> None:
    rig = start(each=1, most=2)
    (a,), (b,) = rig.open("a"), rig.open("b")
    b.release(1)
    await asyncio.sleep(0.01)
    a.release(1)
    (c,) = rig.open("c")
    assert c.slot == b.slot


async def test_a_worker_that_died_leaves_its_place_to_anybody(start: Start) -> None:
    rig = start(each=1, most=1)
    (worker,) = rig.open("a")
    await eventually(lambda: worker.instance_id in rig.backend._instances)
    await rig.backend.kill(worker.instance_id)
    await eventually(lambda: worker in rig.dead)
    assert rig.supervisor.workers[0].owner is None
    assert rig.open("b")[0].owner == "b"


async def test_what_is_ended_is_replaced_in_its_place(start: Start) -> None:
    """Though sessions are opened anew before it is gone: another worker would be one too many for good."""
    rig = start(each=2, most=8)
    ending = rig.open("a", 2)
    async with asyncio.timeout(PATIENCE):
        while await rig.running() < 2:  # noqa: ASYNC110  # neither do their beginnings
            await asyncio.sleep(0.005)
    for worker in ending:
        worker.end("no heartbeat")
    assert [worker.slot for worker in rig.open("a", 2)] == [0, 1]
    assert len(rig.supervisor.workers) == 2
    await eventually(lambda: len(rig.dead) == 2)


async def test_a_worker_is_replaced_once_it_has_hosted_enough(start: Start) -> None:
    rig = start(each=1, most=2, max_sessions=2)
    (worker,) = rig.open("a")
    assert rig.open("a") == [worker]
    (other,) = rig.open("a")  # the first has had its two, and does not count any more
    assert other is not worker
    worker.release(1)
    await asyncio.sleep(0.02)
    assert worker.loss is None
    worker.release(1)
    await eventually(lambda: worker in rig.dead)
    assert "max_sessions_per_worker=2" in str(worker.loss)
    assert other.loss is None
    fresh = rig.supervisor.workers[worker.slot]
    assert (fresh.hosted, fresh.owner) == (0, None)


async def test_a_place_that_becomes_free_is_given_at_once(start: Start) -> None:
    rig = start(each=1, most=1, max_sessions=1)
    (worker,) = rig.open("a")
    with pytest.raises(ResourceExhausted, match="about to be replaced"):
        rig.open("a")
    worker.release(1)
    assert rig.open("a")[0] is not worker


@settings(max_examples=60)
@given(
    each=st.integers(1, 3),
    most=st.integers(1, 5),
    doings=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 9)), max_size=40
    ),
)
async def test_no_order_of_sessions_mixes_principals(
    tmp_path_factory: pytest.TempPathFactory,
    each: int,
    most: int,
    doings: list[tuple[str, int, int]],
) -> None:
    rig = Rig(tmp_path_factory.getbasetemp(), each=each, most=most)
    held: dict[str, list[WorkerHandle]] = {"a": [], "b": [], "c": []}
    seen: dict[WorkerHandle, str] = {}
    try:
        for principal, opened, closed in doings:
            try:
                held[principal] += rig.open(principal, opened) if opened else []
            except ResourceExhausted:
                others = {one for name in held if name != principal for one in held[name]}
                assert len(others) == most
            for _ in range(min(closed, len(held[principal]))):
                held[principal].pop(0).release(1)
            for name, workers in held.items():
                assert len(set(workers)) <= each
                for worker in workers:
                    assert worker.loss is None
                    assert not worker.dismissed.done()
                    assert seen.setdefault(worker, name) == name
            assert len(rig.supervisor.workers) <= most
            await asyncio.sleep(0)
            assert await rig.running() <= most
    finally:
        await rig.supervisor.stop(grace=0)


async def test_where_all_are_about_to_be_replaced_nobody_else_is_named(start: Start) -> None:
    rig = start(each=2, most=2, max_sessions=1)
    rig.open("a", 2)
    with pytest.raises(ResourceExhausted, match=r"ended: 2 .it has hosted 1 sessions") as caught:
        rig.open("a")
    assert "other principals" not in str(caught.value)
    with pytest.raises(ResourceExhausted, match=r"of other principals, .* shared: 2") as caught:
        rig.open("b")
    assert "replaced" not in str(caught.value)


async def test_a_worker_for_one_session_comes_beside_the_others_and_goes_with_it(
    start: Start,
) -> None:
    rig = start(each=1, most=1)
    (shared,) = rig.open("a")
    first, second = (rig.supervisor.worker_alone("a") for _ in range(2))
    first.place(1)
    second.place(1)
    assert rig.open("a") == [shared]
    first.release(1)
    await eventually(lambda: first in rig.dead)
    assert rig.supervisor.workers == [shared, second]
    third = rig.supervisor.worker_alone("b")
    assert (third.slot, third.owner) == (first.slot, "b")
    assert shared.loss is second.loss is None
