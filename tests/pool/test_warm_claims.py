"""What a claim of a sandbox that waits costs, and that it lives when it is handed out."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from megaflow_server.pool import pool as pools
from megaflow_server.sandbox.jobs import Job, Sign
from megaflow_server.sandbox.link import Link
from megaflow_server.templates import PoolSize, Template
from pool_rig import Scene, scene

# What is done to which process of a sandbox, whose command lines are given.
Harm = Callable[[dict[int, bytes]], tuple[int, signal.Signals]]

KINDS = ["process", pytest.param("docker", marks=pytest.mark.requires("docker"))]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
async def test_a_warm_claim_costs_a_tenth_of_a_cold_start(kind: str, tmp_path: Path) -> None:
    async with scene(kind, tmp_path, mode="persistent", pool=PoolSize(max=1)) as here:
        await _claim(here, here.template)  # from here on one waits
        # Turn by turn, and the cheapest of each: what it costs, without what else the machine does.
        cheapest = {False: math.inf, True: math.inf}
        for number in range(8):
            for template in (here.template, here.having(name=f"t{number}", mode="ephemeral")):
                seconds, warm = await _claim(here, template)
                cheapest[warm] = min(cheapest[warm], seconds)
        assert cheapest[True] * 10 <= cheapest[False], cheapest


async def _claim(here: Scene, template: Template) -> tuple[float, bool]:
    """How long a claim takes until it has run a command, and whether one waited; afterwards nothing goes on."""
    began = time.perf_counter()
    leased = await here.lease(template)
    await leased.sandbox.exec("true")
    seconds = time.perf_counter() - began
    await leased.release(dirty=False)
    while any(one.leased or one.resetting or one.ending for one in here.pools.list()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return seconds, leased.warm


async def test_one_that_waits_is_asked_for_no_more_than_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene("process", tmp_path, pool=PoolSize(min=1, max=1)) as here:
        await here.pools.prepare(here.template, 1)
        await here.until(lambda one: one.ready == 1)
        asked: list[Job] = []
        do = Link.do

        async def noting(link: Link, job: Job, outcome: type[object]) -> object:
            asked.append(job)
            return await do(link, job, outcome)

        monkeypatch.setattr(Link, "do", noting)
        leased = await here.lease()
        assert leased.warm
        assert [type(job) for job in asked] == [Sign]


def _one_of_its_loops(programs: dict[int, bytes]) -> tuple[int, signal.Signals]:
    return max(pid for pid, line in programs.items() if b"mf_loop" in line), signal.SIGKILL


def _what_hands_out_orders(programs: dict[int, bytes]) -> tuple[int, signal.Signals]:
    return next(pid for pid, line in programs.items() if line == b"/bin/sh\0"), signal.SIGKILL


def _the_same_but_stopped(programs: dict[int, bytes]) -> tuple[int, signal.Signals]:
    return _what_hands_out_orders(programs)[0], signal.SIGSTOP


def _do(harm: Harm, pids: Iterable[int]) -> None:
    pid, harmful = harm({pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids})
    os.kill(pid, harmful)
    while harmful is signal.SIGKILL and Path(f"/proc/{pid}").exists():
        time.sleep(0.01)


@pytest.mark.parametrize("harm", [_one_of_its_loops, _what_hands_out_orders, _the_same_but_stopped])
async def test_one_that_no_longer_takes_commands_is_not_handed_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Harm,
) -> None:
    # Its instance lives on, so that no backend tells of an end.
    monkeypatch.setattr(pools, "_ANSWER_SECONDS", 0.5)
    async with scene("process", tmp_path, pool=PoolSize(min=1, max=1)) as here:
        await here.pools.prepare(here.template, 1)
        await here.until(lambda one: one.ready == 1)
        (name,) = await here.instances()
        await asyncio.to_thread(_do, harm, here.backend.processes(name))
        leased = await here.lease()
        assert leased.id != name
        assert (await leased.sandbox.exec("echo on")).stdout == b"on\n"
