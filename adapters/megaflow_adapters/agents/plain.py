"""Agents without a model: to try environments and the way to them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megaflow.agent import Agent, AgentEnv, AgentTask
from megaflow.errors import InvalidArgument
from megaflow.model import Model

__all__ = ["NopAgent", "OracleAgent", "RandomAgent", "ScriptedAgent"]


class RandomAgent(Agent):
    """Draws actions from the action space, the same for the same seed.

    Args:
        max_steps: after which it stops, for environments that never end.
    """

    def __init__(self, max_steps: int | None = None) -> None:
        if max_steps is not None and max_steps < 1:
            raise InvalidArgument(f"max_steps={max_steps!r}: give a number from 1")
        self._max_steps = max_steps

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        # Spaces are shared by environments of one kind; what is drawn from must be this attempt's own.
        space = copy.deepcopy(env.action_space)
        space.seed(task.seed)
        await env.reset()
        steps = 0
        while self._max_steps is None or steps < self._max_steps:
            _, _, terminated, truncated, _ = await env.step(space.sample())
            steps += 1
            if terminated or truncated:
                return


class ScriptedAgent(Agent):
    """Takes the actions that it was given, and stops.

    Args:
        actions: in turn, as JSON has them; those that are left when the episode ends are not taken.
    """

    def __init__(self, actions: Iterable[Any]) -> None:
        if isinstance(actions, str | bytes) or not isinstance(actions, Iterable):
            raise InvalidArgument(f"actions={actions!r:.100}: give a list")
        self._actions: Sequence[Any] = list(actions)

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        await _take(env, self._actions)


class OracleAgent(Agent):
    """Takes the task's reference solution, which the environment's `solution()` gives as a list of actions."""

    uses_solution = True

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()
        await _take(env, await env.solution())


class NopAgent(Agent):
    """Begins an episode, and does nothing."""

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        await env.reset()


async def _take(env: AgentEnv, actions: Sequence[Any]) -> None:
    for action in actions:
        _, _, terminated, truncated, _ = await env.step(action)
        if terminated or truncated:
            return
