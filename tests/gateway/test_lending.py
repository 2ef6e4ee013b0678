"""Sandboxes on their way to shards: asked for together, given back together, refused before anything is leased."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megaflow.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.sandbox_request import SandboxRequest, to_value
from megaflow_server.backends.spec import Profile
from megaflow_server.gateway.lending import Lending
from megaflow_server.gateway.records import Deadline, Session, Shard
from megaflow_server.gateway.specs import SharedSpec
from megaflow_server.gateway.wanted import Wanted
from megaflow_server.images import OnDemand
from megaflow_server.pool.leased import Leased
from megaflow_server.requested import Most
from megaflow_server.templates import PoolSize, Template

WANTED = [pb.WantedSandbox(parameter="sandbox", request=values.encode(to_value(SandboxRequest())))]
NEVER = Deadline(math.inf, math.inf)


class Worker:
    def release(self, count: int) -> None:
        pass


class Lender:
    """Serves once so many have asked; fails with `error` instead."""

    def __init__(self, asked: int = 1, error: Exception | None = None) -> None:
        self._asked, self._error = asked, error
        self.refusal: Exception | None = None
        self.claims = 0
        self.out: set[int] = set()
        self._enough = asyncio.Event()

    def profile(self, backend: str) -> Profile | None:
        return "strict" if backend == "docker" else None

    def check(self, template: Template) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def lease(self, template: Template, **given: Any) -> Leased:
        self.claims += 1
        number = self.claims
        if number >= self._asked:
            self._enough.set()
        await self._enough.wait()
        if self._error is not None and number == self._asked:
            raise self._error
        self.out.add(number)

        async def release(dirty: bool) -> None:
            self.out.discard(number)

        sandbox: Any = object()
        return Leased(sandbox, template, str(number), False, release)


def shard(name: str = "one", session: Session | None = None) -> Shard:
    nothing: Any = None
    spec: SharedSpec = nothing
    worker: Any = Worker()
    session = session or Session(f"session of {name}", "me", "me", "", spec, 60.0)
    return Shard(name, session, worker, 0, 1)


def vector(count: int, **fields: Any) -> pb.EnvironmentSpec:
    return pb.EnvironmentSpec(makers=[pb.Maker(id="x")], num_envs=count, **fields)


def lending(
    lender: Lender,
    folder: Path,
    templates: Mapping[str, Template] | None = None,
    *,
    contained: bool = False,
) -> Lending:
    return Lending(lender, folder, Wanted(lender, templates or {}, contained=contained))


async def test_those_of_a_vector_are_leased_side_by_side(tmp_path: Path) -> None:
    lender = Lender(asked=3)
    lends = lending(lender, tmp_path)
    mine = shard()
    part = await asyncio.wait_for(lends.lend(mine, vector(3), WANTED, NEVER), 10)
    given = [maker.sandboxes[0] for maker in part.makers]
    assert len({one.path for one in given}) == len({one.capability for one in given}) == 3
    lends.take_back(mine.id)
    await lends.stop()
    assert lender.out == set()
    assert os.listdir(tmp_path) == []


async def test_where_one_cannot_be_had_none_is_kept(tmp_path: Path) -> None:
    lender = Lender(asked=3, error=Unavailable("the breaker is open"))
    lends = lending(lender, tmp_path)
    mine = shard()
    with pytest.raises(Unavailable, match="breaker"):
        await lends.lend(mine, vector(3), WANTED, NEVER)
    lends.take_back(mine.id)
    await lends.stop()
    assert lender.out == set()
    assert os.listdir(tmp_path) == []


async def test_what_does_not_come_in_time_is_no_fault_of_the_workers(tmp_path: Path) -> None:
    lends = lending(Lender(asked=2), tmp_path)
    with pytest.raises(DeadlineExceeded, match=r"env_start.*sandboxes"):
        await lends.lend(shard(), vector(1), WANTED, Deadline.after(0.1))
    lender = Lender(error=DeadlineExceeded("template box: no instance came in 3.0 s"))
    with pytest.raises(DeadlineExceeded, match=r"env_start.*template box"):
        await lending(lender, tmp_path).lend(shard(), vector(1), WANTED, NEVER)


class NoImages(OnDemand):
    """Takes for ever to build."""

    async def have(self, request: SandboxRequest) -> None:
        await asyncio.Event().wait()

    def step(self, request: SandboxRequest) -> str | None:
        return "Step 2/3 : RUN make"


def without_images(lender: Lender, **fields: Any) -> Wanted:
    return Wanted(lender, {}, contained=False, images=NoImages(), **fields)


async def test_an_image_that_takes_too_long_to_build_is_told(tmp_path: Path) -> None:
    lender = Lender()
    lends = Lending(lender, tmp_path, without_images(lender))
    with pytest.raises(
        DeadlineExceeded, match=r"env_start.*still being built \(Step 2/3 : RUN make"
    ):
        await lends.lend(shard(), vector(1), WANTED, Deadline.after(0.1))
    assert lender.claims == 0


async def test_what_can_never_be_lent_is_refused_before_its_image_is_built(tmp_path: Path) -> None:
    lender = Lender()
    lender.refusal = FailedPrecondition("template task: network.setup='public'")
    lends = Lending(lender, tmp_path, without_images(lender))
    with pytest.raises(FailedPrecondition, match="network"):
        await lends.lend(shard(), vector(1), WANTED, Deadline.after(10))


async def test_more_than_the_server_gives_is_refused_before_its_image_is_built(
    tmp_path: Path,
) -> None:
    lender = Lender()
    wanted = [
        pb.WantedSandbox(
            parameter="sandbox",
            request=values.encode(to_value(SandboxRequest(image="x:1", memory=2 << 30))),
        )
    ]
    lends = Lending(lender, tmp_path, without_images(lender))
    with pytest.raises(FailedPrecondition, match=r"limits.memory: .*gives 1073741824; raise it in"):
        await lends.lend(shard(), vector(1), wanted, NEVER)
    most = Most(memory=2 << 30)
    lends = Lending(lender, tmp_path, without_images(lender, most=most))
    with pytest.raises(DeadlineExceeded, match="still being built"):
        await lends.lend(shard(), vector(1), wanted, Deadline.after(0.1))


async def test_a_session_does_not_wait_for_itself(tmp_path: Path) -> None:
    box = Template("box", backend="process", pool=PoolSize(max=3))
    wanted = [
        pb.WantedSandbox(
            parameter="sandbox", request=values.encode(to_value(SandboxRequest(template="box")))
        )
    ]
    lender = Lender()
    lends = lending(lender, tmp_path, {"box": box})
    first = shard()
    await lends.lend(first, vector(2), wanted, NEVER)
    with pytest.raises(FailedPrecondition, match=r"template box: .* pool.max = 3"):
        await lends.lend(shard("too many"), vector(4), wanted, NEVER)
    second = shard("two", first.session)
    with pytest.raises(FailedPrecondition, match=r"pool.max = 3"):
        await lends.lend(second, vector(2), wanted, NEVER)
    lends.take_back(second.id)
    # Another session waits for its turn instead.
    await lends.lend(shard("another's"), vector(3), wanted, NEVER)
    assert lender.claims == 5
    await lends.stop()


@pytest.mark.parametrize(
    ("contained", "mode", "why"),
    [(True, "sync", "--worker-image"), (False, "vector_entry_point", "use 'sync'")],
)
async def test_who_is_lent_none(tmp_path: Path, contained: bool, mode: str, why: str) -> None:
    lender = Lender()
    lends = lending(lender, tmp_path, contained=contained)
    with pytest.raises(FailedPrecondition, match=why):
        await lends.lend(shard(), vector(1, vectorization_mode=mode), WANTED, NEVER)
    assert lender.claims == 0
