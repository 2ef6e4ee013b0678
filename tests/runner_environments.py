"""Environments and agents for runners: ids with what goes wrong in them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym

from megaflow.agent import Agent, AgentEnv, AgentTask
from megaflow.errors import MegaflowError, Unavailable
from megaflow.generation import Message, Request, Text
from megaflow.model import Model
from megaflow.plugins import register_agent, register_model
from megaflow_adapters.models.scripted import ScriptedModel


class Counting(gym.Env[Any, Any]):
    """Three steps of 1.0 each."""

    observation_space = gym.spaces.Discrete(10)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": []}
    steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if action not in (0, 1):
            raise ValueError(f"no such action: {action}")
        self.steps += 1
        return self.steps, 1.0, self.steps == 3, False, {}


class Judged(Counting):
    """Has a verdict of its own, and a solution."""

    def evaluate(self) -> dict[str, float]:
        return {"reward": self.steps / 3, "steps": float(self.steps)}

    def solution(self) -> list[int]:
        return [1, 1, 1]


class Unjudged(Counting):
    """Its verifier cannot do its work."""

    def evaluate(self) -> dict[str, float]:
        raise RuntimeError("no tests were found")


class Unclear(Counting):
    """Its verdict is no number."""

    def evaluate(self) -> dict[str, float]:
        return {"reward": float("nan")}


class Raising(Counting):
    """Its second step raises."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.steps:
            raise LookupError("no such thing")
        return super().step(action)


class Hanging(Counting):
    """Its second step does not end."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.steps:
            time.sleep(60)
        return super().step(action)


class Unmakeable(Counting):
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no licence")


class Dying(Counting):
    """Its worker dies in its second step."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Devouring(Counting):
    """Takes more memory in its second step than a worker may."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.steps:
            self.taken = bytearray(os.urandom(1 << 20) * 2048)
            time.sleep(60)
        return super().step(action)


class Flaky(Counting):
    """One in twenty of its workers dies in its second step; which one, chance says, and not the seed."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.steps and os.urandom(1)[0] < 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Sleeping(Counting):
    """Takes its time for each step."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        time.sleep(0.5)
        return super().step(action)


class Ones(Agent):
    """Acts in a thread, as agents do whose methods are no coroutines."""

    def act(
        self,
        observation: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
    ) -> tuple[int, dict[str, Any]]:
        return 1, {"saw": observation}


class Failing(Ones):
    """Raises at its second action."""

    def act(
        self,
        observation: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
    ) -> tuple[int, dict[str, Any]]:
        if observation:
            raise KeyError("an agent's own fault")
        return 1, {}


class Ending(Agent):
    """Raises what ends programs and tasks, after its first step and as it is closed.

    Args:
        how: "exit", "interrupt", or "cancelled", by awaiting a task of its own that is.
    """

    def __init__(self, how: str = "exit") -> None:
        self.how = how

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        await env.step(1)
        await self.close()

    async def close(self) -> None:
        if self.how == "exit":
            sys.exit(3)
        if self.how == "interrupt":
            raise KeyboardInterrupt
        own = asyncio.create_task(asyncio.sleep(60))
        own.cancel()
        await own


class Exhausted(Ones):
    """Has fewer actions than there are steps."""

    def __init__(self) -> None:
        self.actions = iter([1])

    def act(
        self,
        observation: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
    ) -> tuple[int, dict[str, Any]]:
        return next(self.actions), {}


class Swallowing(Agent):
    """Goes on, whatever the environment raises."""

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        for _ in range(5):
            try:
                await env.step(1)
            except Exception:
                return


class Greedy(Agent):
    """Wants the solution, and is none who may have it."""

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        await env.solution()


class Odd(Agent):
    """Takes an action that there is not."""

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        await env.step(7)


class Waiting(Agent):
    """Waits for ever."""

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        await env.step(1)
        await asyncio.sleep(3600)


class Twice(Agent):
    """Wants a second try."""

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        await env.reset()


class Asking(Agent):
    """Asks its model once."""

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        message = Message("user", (Text("hello"),))
        await models["policy"].generate(Request("policy", (message,)))


class AskingTwice(Agent):
    """Asks, and asks again, whatever comes of it."""

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        message = Message("user", (Text("hello"),))
        for _ in range(2):
            with suppress(MegaflowError):
                await models["policy"].generate(Request("policy", (message,)))


def _away() -> Model:
    return ScriptedModel([Unavailable("nobody answers")])


_ENVIRONMENTS = (
    Counting, Judged, Unjudged, Unclear, Raising, Hanging, Unmakeable, Dying, Devouring, Flaky, Sleeping,
)  # fmt: skip
_AGENTS = (
    Ones, Failing, Ending, Exhausted, Swallowing, Greedy, Odd, Waiting, Twice, Asking, AskingTwice,
)  # fmt: skip

for each in _ENVIRONMENTS:
    if f"runner/{each.__name__}-v0" not in gym.registry:
        gym.register(
            f"runner/{each.__name__}-v0",
            entry_point=f"{__name__}:{each.__name__}",
            disable_env_checker=True,
            order_enforce=False,
        )
for agent in _AGENTS:
    register_agent(agent.__name__.lower(), agent)
register_model("away", _away)
