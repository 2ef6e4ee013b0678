"""What the fake backend offers to the tests that are built on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from megaflow.errors import NotFound, ResourceExhausted
from megaflow_server.backends import Event, Exit, InstanceSpec, InstanceState
from megaflow_server.backends.fake import FakeBackend


class Server:
    """A body that counts how often it was closed."""

    def __init__(self, spec: InstanceSpec) -> None:
        self.spec = spec
        self.closed = 0

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


def spec(instance_id: str = "a") -> InstanceSpec:
    return InstanceSpec(instance_id, ("worker",), Path("unused.log"))


async def test_a_body_is_made_from_the_spec_and_closed_once_however_its_instance_ends() -> None:
    bodies: list[Server] = []

    async def run(spec: InstanceSpec) -> Server:
        bodies.append(Server(spec))
        return bodies[-1]

    backend = FakeBackend(run)
    for instance_id in ("a", "b", "c"):
        await backend.create(spec(instance_id))
    await backend.kill("a")
    await backend.finish("b", code=2)
    assert [body.closed for body in bodies] == [1, 1, 0]
    for instance_id in ("a", "b", "c"):
        await backend.destroy(instance_id, grace=1)
    assert [(body.spec.id, body.closed) for body in bodies] == [("a", 1), ("b", 1), ("c", 1)]


async def test_a_body_may_be_made_and_closed_without_a_coroutine() -> None:
    closed: list[str] = []

    class Plain:
        def close(self) -> None:
            closed.append("plain")

    backend = FakeBackend(lambda spec: Plain())
    await backend.create(spec())
    await backend.destroy("a", grace=0)
    assert closed == ["plain"]


async def test_the_next_creates_fail_and_those_after_do_not() -> None:
    backend = FakeBackend()
    backend.fail_next(ResourceExhausted("full", retry_after=2), times=2)
    for _ in range(2):
        with pytest.raises(ResourceExhausted, match="full"):
            await backend.create(spec())
    assert (await backend.create(spec())).state is InstanceState.RUNNING
    assert [call for call in backend.calls if call[0] == "create"] == [("create", "a")] * 3


async def test_a_failing_destroy_leaves_the_instance() -> None:
    backend = FakeBackend()
    instance = await backend.create(spec())
    backend.fail_next(ResourceExhausted("busy"), verb="destroy")
    with pytest.raises(ResourceExhausted):
        await backend.destroy("a", grace=1)
    assert instance.state is InstanceState.RUNNING
    await backend.destroy("a", grace=1)
    assert backend.calls == [("create", "a"), ("destroy", "a"), ("destroy", "a")]


async def test_what_the_body_raises_create_raises_and_nothing_exists() -> None:
    def run(spec: InstanceSpec) -> Server:
        raise RuntimeError(f"no port for {spec.id}")

    backend = FakeBackend(run)
    events = backend.events()
    with pytest.raises(RuntimeError, match="no port for a"):
        await backend.create(spec())
    assert await backend.list({}) == []
    await events.aclose()
    assert [event async for event in events] == []


async def test_a_cancelled_create_makes_nothing() -> None:
    backend = FakeBackend(create_delay=3600)
    creating = asyncio.ensure_future(backend.create(spec()))
    await asyncio.sleep(0)
    creating.cancel()
    await asyncio.wait([creating])
    assert await backend.list({}) == []
    backend.create_delay = 0
    assert (await backend.create(spec())).state is InstanceState.RUNNING


async def test_a_destroy_during_a_create_waits_for_it_and_ends_it() -> None:
    backend = FakeBackend(create_delay=0.02)
    creating = asyncio.ensure_future(backend.create(spec()))
    await asyncio.sleep(0)
    await backend.destroy("a", grace=0)
    assert (await creating).state is InstanceState.EXITED
    assert await backend.list({}) == []


async def test_only_what_runs_can_be_killed() -> None:
    backend = FakeBackend()
    await backend.create(spec("a"))
    await backend.create(spec("b"))
    await backend.kill("a", signal=11)
    for instance_id in ("a", "zz"):
        with pytest.raises(NotFound, match=r"these do: \['b'\]"):
            await backend.kill(instance_id)


async def test_the_event_of_a_death_comes_after_its_body_is_closed() -> None:
    backend = FakeBackend(Server)
    events = backend.events()
    instance = await backend.create(spec())
    await backend.kill("a")
    assert await anext(events) == Event("a", "running")
    assert await anext(events) == Event("a", "exited", Exit(signal=9))
    assert isinstance(instance.body, Server)
    assert instance.body.closed == 1


async def test_images_are_recorded_where_the_fake_claims_to_have_them() -> None:
    backend = FakeBackend(capabilities=frozenset({"images"}))
    await backend.prepare("python:3.11")
    assert backend.prepared == ["python:3.11"]
