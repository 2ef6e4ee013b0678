"""Who is let into which sandbox, over sandboxes that only say that they were asked."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from megaflow.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.sandbox import ExecResult, Output
from megaflow_server.gateway.auth import ADMIN, SESSIONS, Principal
from megaflow_server.gateway.inside import Inside
from megaflow_server.gateway.kept import Kept
from megaflow_server.pool.leased import Leased

OWNER = Principal("owner", frozenset({SESSIONS}))
OTHER = Principal("other", frozenset({SESSIONS}))
KEEPER = Principal("keeper", frozenset({ADMIN}))


class Asked:
    was_kept = False

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def end_processes(self) -> None:
        pass

    async def exec(self, command: str, **_: object) -> ExecResult:
        await self.goes_on.wait()
        return ExecResult(0, Output(command.encode()), Output(b""), timed_out=False)


@pytest.fixture
async def asked() -> Asked:
    return Asked()


@pytest.fixture
async def inside(asked: Asked) -> Inside:
    spec = pb.EnvironmentSpec(makers=[pb.Maker(id="a/B-v0")])
    session: Any = SimpleNamespace(
        id="s", owner="owner", tenant="owner", task="", spec=SimpleNamespace(message=lambda: spec)
    )
    leased = SimpleNamespace(sandbox=asked, template=SimpleNamespace(name="box", image=None))
    shard = SimpleNamespace(session=session, loss=None)
    lent = SimpleNamespace(shard=shard, name="sandbox", leased=leased)

    def find(session_id: str, owner: str | None) -> Any:
        if session_id != "s":
            raise NotFound("none")
        if owner not in (None, "owner"):
            raise PermissionDenied("another's")
        return session

    lending: Any = SimpleNamespace(all=lambda: [lent], kept=Kept())
    snapshots: Any = SimpleNamespace(all=dict)
    lender: Any = None
    return Inside(find, lending, snapshots, lender)


def request(session_id: str = "s") -> pb.RunInsideRequest:
    return pb.RunInsideRequest(inside=pb.Inside(id=session_id), command="said")


@pytest.mark.parametrize("caller", [OWNER, KEEPER], ids=lambda one: one.name)
async def test_the_owner_and_an_admin_are_let_in(
    inside: Inside, asked: Asked, caller: Principal
) -> None:
    (listed,) = inside.list(caller).sandboxes
    assert (listed.id, listed.owner, listed.environment) == ("s", "owner", "a/B-v0")
    assert (await inside.run(request(), caller)).stdout.kept == b"said"
    assert asked.was_kept  # nobody else is given it


async def test_nobody_else_is(inside: Inside, asked: Asked) -> None:
    assert not inside.list(OTHER).sandboxes
    with pytest.raises(PermissionDenied):
        await inside.run(request(), OTHER)
    with pytest.raises(NotFound, match="id='t': this server has neither"):
        await inside.run(request("t"), OWNER)
    assert not asked.was_kept


async def test_no_more_than_some_look_at_once(inside: Inside, asked: Asked) -> None:
    asked.goes_on.clear()
    looking = [asyncio.create_task(inside.run(request(), OWNER)) for _ in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="the most at once"):
        await inside.run(request(), OWNER)
    asked.goes_on.set()
    await asyncio.gather(*looking)
    await inside.run(request(), OWNER)


async def test_what_begins_no_terminal_is_refused(inside: Inside) -> None:
    async def typed() -> Any:
        yield pb.TerminalInput(typed=b"x")

    async def never(_: pb.TerminalOutput) -> None:
        raise AssertionError

    with pytest.raises(InvalidArgument, match="first message of a terminal"):
        await inside.terminal(typed(), never, OWNER)


def kept_of(session: Any, released: list[str]) -> Any:
    async def release(dirty: bool) -> None:
        released.append(session.id)

    template: Any = SimpleNamespace(name="box", image=None)
    sandbox: Any = Asked()
    return Leased(sandbox, template, "i", False, release)


async def test_what_is_kept_is_its_owners_and_its_tenants_alone() -> None:
    released: list[str] = []
    kept = Kept(owner_most=2)
    spec = SimpleNamespace(message=pb.EnvironmentSpec)
    for number in range(3):
        session: Any = SimpleNamespace(
            id=f"s{number}",
            owner="runner",
            tenant="owner",
            task=f"j/{number}",
            spec=spec,
            keep=60.0,
        )
        await kept.take(session, "sandbox", kept_of(session, released))
    lending: Any = SimpleNamespace(all=list, kept=kept)

    def find(session_id: str, owner: str | None) -> Any:
        raise NotFound("none")

    snapshots: Any = SimpleNamespace(all=dict)
    lender: Any = None
    inside = Inside(find, lending, snapshots, lender)
    # One more than may be kept: the oldest has gone.
    assert [one.task for one in inside.list(OWNER).sandboxes] == ["j/1", "j/2"]
    assert not inside.list(OTHER).sandboxes
    assert (await inside.run(request("j/1"), OWNER)).stdout.kept == b"said"
    assert (await inside.run(request("s2"), KEEPER)).stdout.kept == b"said"
    for hidden in ("j/1", "s2", "j/0"):
        with pytest.raises(NotFound):
            await inside.run(request(hidden), OTHER)
    inside.drop("j/1", OTHER)
    assert len(kept.all()) == 2
    inside.drop("j/1", OWNER)
    assert [one.session.id for one in kept.all()] == ["s2"]
    await kept.stop()
    assert released == ["s0", "s1", "s2"]
