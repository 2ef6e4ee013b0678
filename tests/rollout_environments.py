"""Imported by servers and runners: environments and a model for rollouts."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from megaflow.agent import Agent, AgentEnv, AgentTask
from megaflow.generation import Request, ToolCall
from megaflow.model import Model
from megaflow.plugins import register_agent, register_model
from megaflow_adapters.models.scripted import ScriptedModel


class Doubtful(gym.Env[Any, Any]):
    """One step, whose reward is 0 or 1; with one seed of four it cannot be taken."""

    observation_space = gym.spaces.Discrete(10)
    action_space = gym.spaces.Discrete(2)
    drawn = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.drawn = int(self.np_random.integers(4))
        return self.drawn, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.drawn == 3:
            raise RuntimeError("the licence server is away")
        return 0, float(self.drawn == 1), True, False, {}


class Straggling(Doubtful):
    """With one seed of four its step takes for ever."""

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.drawn == 3:
            time.sleep(600)
        return 0, 1.0, True, False, {}


class Asker(Agent):
    """Asks once, and acts."""

    roles = ("policy",)

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        await models["policy"].generate(Request(model="policy", prompt="act"))
        await env.step(1)


register_agent("asker", Asker)
gym.register("rollouts/Doubtful-v0", f"{__name__}:Doubtful")
gym.register("rollouts/Straggling-v0", f"{__name__}:Straggling")
register_model(
    "acting",
    lambda: ScriptedModel([ToolCall("c", "act", json.dumps({"action": 1}))], repeat=True),
)
