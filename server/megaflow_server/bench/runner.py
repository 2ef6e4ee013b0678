"""What a runner adds to a step of an environment, and what an attempt that waits takes."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megaflow.agent import Agent, AgentEnv, AgentTask
from megaflow.async_client import AsyncClient
from megaflow.async_env import AsyncRemoteEnv
from megaflow.model import Model
from megaflow.plugins import register_agent
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.task import Task
from megaflow_server.bench.processes import cpu, resident, serving
from megaflow_server.gateway.task_documents import document_of
from megaflow_server.runner.attempt import Execution, Tools
from megaflow_server.trajectories import TrajectoryStore

__all__ = ["Figures", "Plan", "measure"]

_WAITS, _STEPS = "megaflow-bench-waits", "megaflow-bench-steps"
# Attempts before those that count, so that what is loaded once is there.
_FIRST = 20
# Seconds for which attempts wait while their process is looked at.
_IDLE = 3.0


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        attempts: that wait at once.
        steps: of one attempt, alone.
        env: the environment.
    """

    attempts: int = 2000
    steps: int = 2000
    env: str = "CartPole-v1"


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        bare: seconds that steps took without a runner.
        recorded: seconds that they took as an agent sees them.
        opening: seconds until all attempts had begun.
        memory: bytes that the process grew by, for each attempt that waits.
        cpu: cores that it took while all of them waited.
        failed: attempts that did not begin.
    """

    bare: list[float]
    recorded: list[float]
    opening: float
    memory: float
    cpu: float
    failed: int

    @property
    def overhead(self) -> float:
        """What the runner adds to a step, by the medians; seconds."""
        return _median(self.recorded) - _median(self.bare)


class _Waits(Agent):
    """Begins, and waits for ever."""

    begun = 0

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        _Waits.begun += 1
        await asyncio.Event().wait()


class _Steps(Agent):
    """Acts for ever: `took` has what each step took."""

    took: list[float] = []

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        over = False
        while not over:
            began = time.perf_counter()
            _, _, terminated, truncated, _ = await env.step(env.action_space.sample())
            self.took.append(time.perf_counter() - began)
            over = terminated or truncated


register_agent(_WAITS, _Waits)
register_agent(_STEPS, _Steps)


def measure(plan: Plan, say: Callable[[str], None]) -> Figures:
    """Runs it."""
    with (
        serving(max_sessions=plan.attempts + 100, workers=1) as (address, _),
        tempfile.TemporaryDirectory(prefix="megaflow-bench-") as folder,
    ):
        return asyncio.run(_measure(plan, say, address, folder))


async def _measure(plan: Plan, say: Callable[[str], None], address: str, folder: str) -> Figures:
    store = TrajectoryStore(folder)
    async with AsyncClient(address) as client:
        tools = Tools(
            client=client,
            store=store,
            progress=lambda *_: None,
            server_id=str,
            server_gone=_never,
            peak=_unknown,
            deadlines={},
        )
        say("steps without a runner")
        bare = await _bare(client, plan)
        say("steps of an attempt")
        recorded = await _recorded(tools, plan)
        say(f"{plan.attempts:,} attempts that wait")
        opening, memory, used, failed = await _waiting(tools, plan)
    await store.close()
    return Figures(bare, recorded, opening, memory, used, failed)


async def _unknown(_: str) -> None:
    """Nobody asks what was used."""


async def _never(_: str) -> bool:
    return False


async def _bare(client: AsyncClient, plan: Plan) -> list[float]:
    env: AsyncRemoteEnv = await client.make(plan.env)
    took: list[float] = []
    while len(took) < plan.steps:
        await env.reset(seed=1)
        over = False
        while not over:
            began = time.perf_counter()
            _, _, terminated, truncated, _ = await env.step(env.action_space.sample())
            took.append(time.perf_counter() - began)
            over = terminated or truncated
    await env.close()
    return took


async def _recorded(tools: Tools, plan: Plan) -> list[float]:
    _Steps.took = []
    number = 0
    while len(_Steps.took) < plan.steps:
        await Execution(_attempt(plan, _STEPS, f"steps/{number}"), tools).run()
        number += 1
    return _Steps.took


async def _waiting(tools: Tools, plan: Plan) -> tuple[float, float, float, int]:
    first = await _begin(tools, plan, "first", _FIRST)
    gc.collect()
    before, began = resident(os.getpid()), time.perf_counter()
    tasks = await _begin(tools, plan, "waits", plan.attempts)
    opening = time.perf_counter() - began
    gc.collect()
    await asyncio.sleep(_IDLE)
    memory = (resident(os.getpid()) - before) / plan.attempts
    used = cpu(os.getpid())
    await asyncio.sleep(_IDLE)
    used = (cpu(os.getpid()) - used) / _IDLE
    failed = sum(task.done() for task in tasks)
    for task in (*first, *tasks):
        task.cancel()
    await asyncio.gather(*first, *tasks)
    return opening, memory, used, failed


async def _begin(tools: Tools, plan: Plan, name: str, count: int) -> list[asyncio.Task[pb.Outcome]]:
    wanted = _Waits.begun + count
    tasks = [
        asyncio.create_task(Execution(_attempt(plan, _WAITS, f"{name}/{number}"), tools).run())
        for number in range(count)
    ]
    while _Waits.begun + sum(task.done() for task in tasks) < wanted:  # noqa: ASYNC110 - counted elsewhere
        await asyncio.sleep(0.05)
    return tasks


def _attempt(plan: Plan, agent: str, name: str) -> pb.Attempt:
    document = document_of(Task(plan.env, agent).message(0, 0, 1))
    return pb.Attempt(task_id=name, fence=1, seed=1, document=document)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
