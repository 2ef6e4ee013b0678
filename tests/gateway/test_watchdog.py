"""Workers without a process are judged by their heartbeats alone, and never by the gateway's own pauses."""

from __future__ import annotations

import asyncio
import ctypes
import queue
import time
from collections.abc import Callable

import pytest

from gateway_rig import Bench, eventually
from megaflow import errors
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway import watchdog
from megaflow_server.worker import service
from worker_rig import PATIENCE, single, vector

HEARTBEAT_TIMEOUT = 0.4


@pytest.mark.long
@pytest.mark.parametrize("pause", [time.sleep, lambda s: ctypes.PyDLL(None).usleep(int(s * 1e6))])
async def test_a_gateway_that_stands_still_loses_nobody(
    bench: Bench, pause: Callable[[float], object]
) -> None:
    await bench.start(heartbeat_timeout=HEARTBEAT_TIMEOUT)
    opened = await bench.open(vector(2))
    for _ in range(2):
        pause(3 * HEARTBEAT_TIMEOUT)
        await asyncio.sleep(HEARTBEAT_TIMEOUT / 4)
    await asyncio.sleep(2 * HEARTBEAT_TIMEOUT)
    for shard in opened.shards:
        assert (await bench.describe(opened.session_id, shard.shard_id)).alive


async def test_a_worker_whose_heartbeats_stop_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_event = service._next_event
    silent = False

    def starved(
        watcher: queue.SimpleQueue[str | None], heartbeat_s: float
    ) -> pb.WorkerEvent | None:
        event = next_event(watcher, heartbeat_s)
        while silent and event is not None and event.HasField("heartbeat"):
            event = next_event(watcher, heartbeat_s)
        return event

    monkeypatch.setattr(service, "_next_event", starved)
    await bench.start(max_workers=1, warm=1, heartbeat_timeout=HEARTBEAT_TIMEOUT)
    opened = await bench.open(single())
    await asyncio.sleep(3 * HEARTBEAT_TIMEOUT)
    (shard,) = opened.shards
    assert (await bench.describe(opened.session_id, shard.shard_id)).alive
    (worker,) = bench.workers
    silent = True
    await eventually(lambda: worker.loss is not None)
    silent = False
    status = await bench.describe(opened.session_id, shard.shard_id)
    loss = failures.from_message(status.error)
    assert isinstance(loss, errors.SessionLost)
    assert "worker-0 (in-process) was ended: no heartbeat for 0." in str(loss)
    assert "its process cannot be looked at from outside" in str(loss)
    assert (await bench.open(single())).shards[0].endpoint != shard.endpoint


async def test_one_that_cannot_be_judged_keeps_nobody_from_being(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judged = 0

    def broken(worker: object) -> None:
        nonlocal judged
        judged += 1
        raise RuntimeError("a bug")

    monkeypatch.setattr(watchdog, "_feel", broken)
    await bench.start(heartbeat_timeout=HEARTBEAT_TIMEOUT)
    await bench.gateway.ready()
    await eventually(lambda: judged > 4)
    assert "a bug" in caplog.text


async def test_sessions_of_two_principals_are_on_workers_of_their_own(bench: Bench) -> None:
    await bench.start(max_workers=2, warm=2)
    request = pb.OpenSessionRequest(environment=vector(2))
    first = await bench.gateway.sessions.open(request, "a")
    assert len({shard.endpoint.unix_path for shard in first.shards}) == 2
    with pytest.raises(errors.ResourceExhausted, match="sessions of other principals") as refused:
        await bench.gateway.sessions.open(request, "b")
    assert refused.value.retry_after
    await bench.gateway.sessions.close(first.session_id, "a")
    async with asyncio.timeout(PATIENCE):
        second = await bench.gateway.sessions.open(request, "b")
    paths = {shard.endpoint.unix_path for shard in second.shards}
    assert paths.isdisjoint(shard.endpoint.unix_path for shard in first.shards)
    await bench.gateway.sessions.close(second.session_id, "b")
    await bench.quiet()
