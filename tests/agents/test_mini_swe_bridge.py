"""Threads that wait for coroutines of the task that started them."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from megaflow_adapters.agents.mini_swe.bridge import Bridge, Left

whose: ContextVar[str] = ContextVar("whose")


async def test_what_it_waits_for_has_the_context_of_who_runs_it() -> None:
    async def told() -> str:
        await asyncio.sleep(0)
        return whose.get()

    whose.set("mine")
    bridge = Bridge()
    assert await bridge.run(lambda: [bridge.call(told), bridge.call(told)]) == ["mine", "mine"]


async def test_errors_go_both_ways() -> None:
    async def fails() -> None:
        raise ValueError("of the coroutine")

    bridge = Bridge()

    def work() -> None:
        with pytest.raises(ValueError, match="of the coroutine"):
            bridge.call(fails)
        raise KeyError("of the thread")

    with pytest.raises(KeyError, match="of the thread"):
        await bridge.run(work)


async def test_one_that_computes_while_it_is_left_ends_with_what_it_asks_next() -> None:
    begun, go, ended = asyncio.Event(), threading.Event(), threading.Event()
    bridge, loop = Bridge(), asyncio.get_running_loop()
    asked = []

    async def ask() -> None:
        asked.append("after it was left")

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait()
        try:
            bridge.call(ask)
        except Left:
            ended.set()

    running = asyncio.create_task(bridge.run(work))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    go.set()
    assert await asyncio.to_thread(ended.wait, 30)
    assert asked == []
