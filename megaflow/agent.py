"""The base class of agents, and what they are given: a description of their task, an environment and models."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO, Any, ClassVar, Protocol

from gymnasium import Space

from megaflow.model import Model
from megaflow.sandbox import OUTPUT_LIMIT, ExecResult

__all__ = ["Agent", "AgentEnv", "AgentSandbox", "AgentTask", "called"]


@dataclass(frozen=True, kw_only=True)
class AgentTask:
    """What an agent knows of its task.

    Attributes:
        id: JOB/INDEX, or JOB/INDEX.SAMPLE.
        instruction: what is to be done, where the environment has an attribute of that name.
        seed: of this sample, the same in each attempt; None where the environment draws one.
        sample: which of the task's samples.
        kwargs: the task's `agent_kwargs`.
        observation_space, action_space: the environment's.
    """

    id: str
    env: str
    observation_space: Space[Any]
    action_space: Space[Any]
    instruction: str | None = None
    seed: int | None = None
    sample: int = 0
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


class AgentSandbox(Protocol):
    """Where an agent runs that is a program of its own: what it does there is recorded as what it ran and printed."""

    @property
    def environ(self) -> Mapping[str, str]:
        """With which programs find the attempt's models: `OPENAI_BASE_URL`, `OPENAI_API_KEY`, `ANTHROPIC_BASE_URL`,
        `ANTHROPIC_AUTH_TOKEN`. `run` gives them to each command; the token opens this attempt's session alone."""
        ...

    async def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        """Run a command as the environment runs those of an agent: its user, its directory, its variables.

        Args:
            timeout: seconds; never more than the environment gives an agent.
            env: laid over these variables.
        """
        ...

    async def put(self, tar: IO[bytes]) -> None:
        """Unpack a tar archive at its root; FailedPrecondition where what is in it is there already."""
        ...


class AgentEnv(Protocol):
    """The environment as an agent has it: all that is done to it is recorded."""

    @property
    def observation_space(self) -> Space[Any]: ...

    @property
    def action_space(self) -> Space[Any]: ...

    async def reset(self, *, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the attempt's one episode, with the task's seed. FailedPrecondition the second time."""
        ...

    async def step(
        self, action: Any, agent_info: Mapping[str, Any] | None = None
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; `agent_info` is kept beside the action."""
        ...

    def sandbox(self) -> AbstractAsyncContextManager[AgentSandbox]:
        """The sandbox that the episode is played in, for an agent that runs there itself, once it has begun.

        Raises:
            FailedPrecondition: the environment lets no agent in, or the server cannot listen in its sandbox.
            InvalidArgument: the task names no models.
        """
        ...

    async def solution(self) -> list[Any]:
        """The reference solution's actions. PermissionDenied unless the agent's class `uses_solution`."""
        ...


class Agent:
    """Takes observations, gives actions. One is made for each attempt, with the task's `agent_kwargs`.

    `reset` and `act` may be coroutines, which are awaited on the event loop of hundreds of other attempts, or
    plain methods, which may block and compute: each call runs in a thread. What an agent raises ends its attempt,
    which is evaluated as it stands.

    Attributes:
        uses_solution: whether it may ask the environment for the task's reference solution.
        roles: of the models that it cannot do without; a task that does not name one is not begun.
    """

    uses_solution: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ()

    def reset(self, task: AgentTask) -> Any:
        """A task begins; returns nothing."""

    def act(
        self,
        observation: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
    ) -> Any:
        """The next action, and what to keep beside it: `(action, info)`.

        Args:
            observation, info: the environment's last.
            reward, terminated, truncated: of the last step; 0.0 and False before the first.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither act() nor a run() of its own")

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        """One attempt at a task: an episode of `act`, until it ends. Override it to own the loop.

        Args:
            models: by role.
        """
        await called(self.reset, task)
        observation, info = await env.reset()
        reward, terminated, truncated = 0.0, False, False
        while not (terminated or truncated):
            action, about = await called(self.act, observation, reward, terminated, truncated, info)
            observation, reward, terminated, truncated, info = await env.step(action, about)

    def close(self) -> Any:
        """The attempt is over, however it ended; returns nothing."""


async def called(function: Callable[..., Any], *args: Any) -> Any:
    """What a coroutine function or a plain one gives, the plain one called in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    return await asyncio.to_thread(_in_thread, function, *args)


def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except StopIteration as error:
        # No future takes one: whoever awaits it would wait for ever. A coroutine makes the same of it.
        raise RuntimeError(f"{function.__qualname__} raised StopIteration") from error
