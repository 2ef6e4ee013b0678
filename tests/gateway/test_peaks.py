"""What sessions of tasks use at most: looked at from outside, shared out, and told once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest

import megaflow
from megaflow.errors import Unavailable
from megaflow.gateway_connection import OnBehalf, on_behalf
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow_server.backends import get_backend
from megaflow_server.backends.base import Stats
from megaflow_server.consumption import cpu_seconds, memory
from megaflow_server.gateway import peaks
from megaflow_server.gateway.peaks import Meter, Peaks
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from worker_rig import PATIENCE

MIB = 1 << 20


def amount(meter: Meter) -> tuple[float, int]:
    peak = meter.peak
    assert peak is not None
    return round(peak.cpu, 3), peak.memory


def test_cores_are_those_of_the_busiest_minute_and_bytes_the_most_at_once() -> None:
    meter = Meter()
    assert meter.peak is None
    meter.look(0.0, 0.0, 5)
    assert meter.peak is None  # nobody knows yet how long it has been there
    for second in range(2, 302, 2):
        busy = 100 <= second < 160
        meter.look(float(second), 3.0 if busy else 0.1, 900 if second == 120 else 100)
    assert amount(meter) == (1.5, 900)


def test_of_a_short_session_they_are_those_of_its_life() -> None:
    meter = Meter()
    meter.look(10.0, 0.0, 7)
    meter.look(12.0, 1.0, 7)
    meter.look(14.0, 0.0, 7)
    assert amount(meter) == (0.25, 7)


class Scene:
    """Sessions with a worker that is a real process, and sandboxes that say what they use."""

    def __init__(self, pid: int) -> None:
        self.now = 0.0
        self.worker = SimpleNamespace(pid=pid, serves=True, instance_id="w", load=0)
        self.sessions: list[Any] = []
        self.lent: list[Any] = []
        self.peaks = Peaks(lambda: self.sessions, lambda: self.lent, lambda: self.now)

    def open(self, name: str, count: int = 1, *, measured: bool = True) -> Any:
        session = SimpleNamespace(
            id=name, owner="runner", measured=measured, opening=False, shards={}
        )
        session.shards["s"] = SimpleNamespace(
            worker=self.worker, count=count, loss=None, session=session
        )
        self.worker.load += count
        self.sessions.append(session)
        return session

    def lend(self, session: Any, stats: Any) -> None:
        leased = SimpleNamespace(id=f"box of {session.id}", stats=stats)
        self.lent.append(SimpleNamespace(shard=session.shards["s"], leased=leased))

    async def look(self, seconds: float = 10.0) -> None:
        self.now += seconds
        await self.peaks.look()


@pytest.fixture
def scene() -> Iterator[Scene]:
    code = f"kept = bytes(range(256)) * {80 * 4096}; print(); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield Scene(process.pid)
    process.communicate(b"\n")


async def test_what_a_worker_takes_is_shared_out_by_sub_environments(scene: Scene) -> None:
    scene.open("one")
    scene.open("three", 3)
    scene.open("nobody's task", 4, measured=False)
    for _ in range(3):
        await scene.look()
    one, three = scene.peaks.take("one", "runner"), scene.peaks.take("three", "runner")
    assert one is not None
    assert three is not None
    assert 80 * MIB / 8 <= one.memory < 200 * MIB / 8
    assert three.memory == pytest.approx(3 * one.memory, abs=4)
    assert one.cpu < 0.1
    assert scene.peaks.take("nobody's task", "runner") is None


async def test_a_sandbox_is_its_sessions_alone_from_when_it_was_lent(scene: Scene) -> None:
    session, other = scene.open("mine"), scene.open("other")
    seconds = 5000.0  # of sessions that it had before

    async def stats() -> Stats:
        nonlocal seconds
        seconds += 20.0
        return Stats(cpu_seconds=seconds, memory=3 << 30, pids=1)

    async def away() -> Stats:
        raise Unavailable("the engine is away")

    scene.lend(session, stats)
    scene.lend(other, away)
    for _ in range(3):
        await scene.look()
    mine, others = scene.peaks.take("mine", "runner"), scene.peaks.take("other", "runner")
    assert mine is not None
    assert others is not None
    assert mine.cpu == pytest.approx(2.0, abs=0.1)
    assert mine.memory >= 3 << 30
    assert others.memory < 1 << 30


async def test_it_is_told_once_to_its_owner_for_a_while(scene: Scene) -> None:
    scene.open("one")
    await scene.look()
    await scene.look()
    scene.sessions.clear()
    await scene.look()
    assert scene.peaks.take("one", "somebody") is None
    assert scene.peaks.take("one", "runner") is not None
    assert scene.peaks.take("one", "runner") is None
    scene.open("two")
    await scene.look()
    await scene.look()
    scene.sessions.clear()
    await scene.look(peaks._KEPT + 1.0)
    assert scene.peaks.take("two", "runner") is None


async def test_what_a_process_used_is_counted_with_that_of_its_children() -> None:
    before = cpu_seconds([os.getpid()])
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", busy)
    await process.wait()
    assert cpu_seconds([os.getpid()]) - before >= 0.4
    assert memory([os.getpid()]) > 10 * MIB
    assert cpu_seconds([process.pid]) == memory([process.pid]) == 0


async def test_a_server_tells_what_a_tasks_session_used_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peaks, "INTERVAL", 0.05)
    settings = GatewaySettings(
        folder=tmp_path, listen=[f"unix:{tmp_path / 'g.sock'}"], max_workers=1, warm_workers=1
    )
    async with Gateway(settings, get_backend("process")) as gateway:
        (address,) = gateway.addresses
        async with (
            megaflow.AsyncClient(address) as client,
            grpc.aio.insecure_channel(address) as at,
        ):
            stub: Any = pb_grpc.GatewayStub(at)

            async def used(tenant: str) -> pb.CloseSessionResponse:
                on_behalf.set(OnBehalf(tenant))
                env = await client.make("CartPole-v1")
                await env.reset(seed=1)
                await asyncio.sleep(1.0)
                request = pb.CloseSessionRequest(session_id=env.session_id)
                await env.close()
                answer: pb.CloseSessionResponse = await stub.CloseSession(request, timeout=PATIENCE)
                return answer

            measured = (await used("research")).peak
            assert 20 * MIB < measured.memory < 2000 * MIB
            assert measured.cpu < 4.0
            assert not (await used("")).HasField("peak")
