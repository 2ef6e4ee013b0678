"""The contract of an agent, as tests: subclass `AgentContract` in a test module, with an `agent` fixture."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import gymnasium as gym
import pytest

from megaflow.agent import Agent, AgentSandbox, AgentTask, called
from megaflow.errors import FailedPrecondition, PermissionDenied
from megaflow.model import Model

__all__ = ["AgentContract", "LocalEnv"]

# Steps after which an agent that never stops is told that the episode was truncated.
MOST_STEPS = 1000


class LocalEnv:
    """An environment of this process, as an agent is handed one, and as strict; see `megaflow.AgentEnv`.

    Attributes:
        actions: what was done, in order.
        total: the sum of the rewards.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int | None, *, solves: bool) -> None:
        self._env = env
        self._seed = seed
        self._solves = solves
        self.begun = self.over = False
        self.actions: list[Any] = []
        self.total = 0.0
        self.observation_space, self.action_space = env.observation_space, env.action_space

    async def reset(self, *, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See `AgentEnv.reset`."""
        if self.begun:
            raise FailedPrecondition("reset: an attempt is one episode, and it has begun already")
        self.begun = True
        return self._env.reset(seed=self._seed, options=options)

    async def step(
        self, action: Any, agent_info: Mapping[str, Any] | None = None
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `AgentEnv.step`."""
        assert self.begun, "the agent acts before the episode has begun"
        assert not self.over, "the agent acts after the episode is over"
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        assert agent_info is None or isinstance(agent_info, Mapping), "agent_info is no mapping"
        self.actions.append(action)
        observation, reward, terminated, truncated, info = self._env.step(action)
        self.total += float(reward)
        truncated = truncated or len(self.actions) >= MOST_STEPS
        self.over = terminated or truncated
        return observation, float(reward), terminated, truncated, info

    def sandbox(self) -> AbstractAsyncContextManager[AgentSandbox]:
        """See `AgentEnv.sandbox`: an environment of this process has none."""
        raise FailedPrecondition(
            "sandbox: an environment of this process has none; it takes one of a server"
        )

    async def solution(self) -> list[Any]:
        """See `AgentEnv.solution`."""
        if not self._solves:
            raise PermissionDenied("solution: is for agents whose class has uses_solution = True")
        return list(self._env.get_wrapper_attr("solution")())


class AgentContract(ABC):
    """What a runner relies on. Give `make_agent` and, where it takes a certain environment, `make_env`."""

    @abstractmethod
    def make_agent(self) -> Agent:
        """A new agent, as one is made for each attempt."""

    def make_env(self) -> gym.Env[Any, Any]:
        """An environment that it can act in."""
        return gym.make("CartPole-v1")

    def make_models(self) -> Mapping[str, Model]:
        """Models by role, new ones."""
        return {}

    async def attempt(self, seed: int = 3) -> LocalEnv:
        """One attempt, from making the agent to closing it."""
        agent, env = self.make_agent(), self.make_env()
        local = LocalEnv(env, seed, solves=agent.uses_solution)
        task = AgentTask(
            id="job/0",
            env="test",
            observation_space=env.observation_space,
            action_space=env.action_space,
            seed=seed,
        )
        try:
            await agent.run(task, local, self.make_models())
        finally:
            await called(agent.close)
            env.close()
        return local

    async def test_it_begins_an_episode_and_stops(self) -> None:
        local = await self.attempt()
        assert local.begun

    async def test_what_it_does_follows_from_the_seed(self) -> None:
        first, second = await self.attempt(), await self.attempt()
        assert repr(first.actions) == repr(second.actions)
        assert first.total == second.total

    async def test_attempts_are_apart(self) -> None:
        alone = await self.attempt(5)
        await self.attempt(6)
        assert repr((await self.attempt(5)).actions) == repr(alone.actions)

    async def test_it_may_be_closed_without_having_run(self) -> None:
        await called(self.make_agent().close)

    @pytest.mark.parametrize("method", ["run"])
    def test_what_is_awaited_is_a_coroutine(self, method: str) -> None:
        found: Callable[..., Any] = getattr(self.make_agent(), method)
        assert inspect.iscoroutinefunction(found)
