"""The environment of an attempt, as its agent has it: every call is recorded, every failure remembered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from gymnasium import Space

from megaflow.agent import AgentSandbox
from megaflow.async_env import AsyncRemoteEnv
from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from megaflow.trajectory.records import Event, Record, Reset, Step
from megaflow_server.runner.failures import environments_own
from megaflow_server.runner.inside import Inside
from megaflow_server.trajectories import TrajectoryWriter

__all__ = ["RecordedEnv"]

T = TypeVar("T")


class RecordedEnv:
    """See `megaflow.AgentEnv`.

    Attributes:
        failure: what the environment failed with, whatever the agent made of it.
        pending: which call of it is under way.
        total: the sum of its rewards so far.
        begun: whether the episode has begun; `over`: whether it has ended.
    """

    __slots__ = (
        "_env",
        "_inside",
        "_seed",
        "_solves",
        "_writer",
        "begun",
        "failure",
        "over",
        "pending",
        "total",
    )

    def __init__(
        self,
        env: AsyncRemoteEnv,
        writer: TrajectoryWriter,
        seed: int | None,
        *,
        solves: bool,
        inside: Inside,
    ) -> None:
        self._env = env
        self._inside = inside
        self._writer = writer
        self._seed = seed
        self._solves = solves
        self.failure: MegaflowError | None = None
        self.pending = ""
        self.total = 0.0
        self.begun = self.over = False

    @property
    def observation_space(self) -> Space[Any]:
        return self._env.observation_space

    @property
    def action_space(self) -> Space[Any]:
        return self._env.action_space

    async def reset(self, *, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See `AgentEnv.reset`."""
        if self.begun:
            raise FailedPrecondition("reset: an attempt is one episode, and it has begun already")
        began = time.monotonic()
        reply = await self._asked("reset", self._env.reset(seed=self._seed, options=options))
        latency = time.monotonic() - began
        self.begun = True
        observation, info = reply
        await self._write(
            Reset(
                observation=observation,
                info=info,
                seed=self._seed,
                options=options,
                latency=latency,
            )
        )
        return observation, info

    async def restore(self, snapshot: str) -> None:
        """Begin the episode where a snapshot has it; raises NotFound where there is none, and can be asked again."""
        began = time.monotonic()
        options = {"snapshot": snapshot}
        try:
            observation, info = await self._asked("reset", self._env.reset(options=options))
        except NotFound:
            self.failure = None
            raise
        self.begun = True
        latency = time.monotonic() - began
        await self._write(
            Reset(observation=observation, info=info, options=options, latency=latency)
        )

    async def step(
        self, action: Any, agent_info: Mapping[str, Any] | None = None
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `AgentEnv.step`."""
        if not self.begun or self.over:
            state = "is over" if self.over else "has not begun: await env.reset()"
            raise FailedPrecondition(f"step: the episode {state}")
        began = time.monotonic()
        try:
            reply = await self._asked("step", self._env.step(action))
        except Exception as error:
            failure = self.failure
            if failure is None or failure.infrastructure or self._takes(action):
                raise
            self.failure = None  # the agent's own
            raise InvalidArgument(
                f"action={action!r:.200} is not in {self.action_space!r:.200}: {failure.message}"
            ) from error
        latency = time.monotonic() - began
        observation, given, terminated, truncated, info = reply
        reward = float(given)
        self.total += reward
        self.over = bool(terminated or truncated)
        await self._write(
            Step(
                action=action,
                observation=observation,
                reward=reward,
                terminated=bool(terminated),
                truncated=bool(truncated),
                info=info,
                latency=latency,
                agent_info=agent_info or {},
            )
        )
        return observation, reward, bool(terminated), bool(truncated), info

    async def solution(self) -> list[Any]:
        """See `AgentEnv.solution`."""
        if not self._solves:
            raise PermissionDenied("solution: is for agents whose class has uses_solution = True")
        actions = list(await self._asked("solution", self._env.call("solution")))
        await self._write(Event(name="solution", data={"actions": len(actions)}))
        return actions

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator[AgentSandbox]:
        """See `AgentEnv.sandbox`."""
        if not self.begun or self.over:
            state = "is over" if self.over else "has not begun: await env.reset()"
            raise FailedPrecondition(f"sandbox: the episode {state}")
        try:
            opened = await self._inside.open(self._env, self._write)
        except Exception as error:
            self.failure = environments_own(error)
            raise
        try:
            yield opened
        finally:
            await opened.close()
            # What was computed without it is no result, whatever the agent made of that.
            self.failure = self.failure or opened.failure

    async def _write(self, record: Record) -> None:
        try:
            await self._writer.append(record)
        except (Unavailable, ResourceExhausted) as error:  # the disk's, and not the agent's
            self.failure = error
            raise

    def _takes(self, action: Any) -> bool:
        try:
            return bool(self.action_space.contains(action))
        except (
            TypeError,
            ValueError,
            AttributeError,
        ):  # so odd that the space does not even say no
            return False

    async def _asked(self, call: str, reply: Awaitable[T]) -> T:
        self.pending = call
        try:
            answer = await reply
        except Exception as error:
            self.failure = environments_own(error)
            self.pending = ""
            raise
        # A call that is cancelled is still under way: it stays pending.
        self.pending = ""
        return answer
