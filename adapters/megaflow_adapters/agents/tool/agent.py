"""A model that calls tools until the episode is over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from gymnasium.spaces import Text as TextSpace

from megaflow.agent import Agent, AgentEnv, AgentTask
from megaflow.errors import InvalidArgument
from megaflow.generation import Completion, Request, ToolCall
from megaflow.model import Model
from megaflow_adapters.agents.sampling import checked_sampling, sampling_of
from megaflow_adapters.agents.tool.actions import ActionTools
from megaflow_adapters.agents.tool.commands import CommandTools
from megaflow_adapters.agents.tool.conversation import Conversation
from megaflow_adapters.agents.tool.toolset import Answer, Misused, Toolset

__all__ = ["ToolAgent"]

# Answers in a row that call no tool, after which the agent stops.
_IDLE: Final = 3
_NO_CALL: Final = "That called no tool. Call one; nothing else has an effect."


class ToolAgent(Agent):
    """Asks the model `policy`, calls the tools that it names, and shows it what they gave.

    In an environment with an instruction whose actions are text, the tools are shell, edit, write and submit; in
    any other it is `act`, with the action space's JSON schema. It stops when the episode is over, after `max_turns`,
    or when the model has called no tool three times running; the attempt is evaluated as it stands then.

    Args:
        max_turns: answers of the model.
        context_tokens: of a prompt, about; old answers of tools are left out of a longer one.
        sampling: fields of `megaflow.generation.Sampling`; where it has no seed the task's is taken.
        system: in place of what the model is told first.

    Raises:
        InvalidArgument: names the argument that is wrong.
    """

    roles: ClassVar[tuple[str, ...]] = ("policy",)

    def __init__(
        self,
        max_turns: int = 100,
        context_tokens: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> None:
        for name, value in (("max_turns", max_turns), ("context_tokens", context_tokens)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InvalidArgument(f"{name}={value!r}: give a whole number")
            if value is not None and value < 1:
                raise InvalidArgument(f"{name}={value!r}: give a number from 1")
        self._max_turns = max_turns
        self._context_tokens = context_tokens
        self._sampling = checked_sampling(sampling or {})
        self._system = system

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        """See `Agent.run`."""
        tools = _tools(task, env)
        observation, _ = await env.reset()
        conversation = Conversation(
            self._system or tools.system,
            tools.begin(observation),
            most_tokens=self._context_tokens,
        )
        idle = 0
        for turn in range(self._max_turns):
            conversation.shorten()
            completion = await models["policy"].generate(self._request(conversation, tools, task))
            conversation.answered(completion)
            if not completion.tool_calls:
                idle += 1
                if idle == _IDLE:
                    return
                conversation.ask(_NO_CALL)
                continue
            idle = 0
            if await _all_called(completion, conversation, tools, turn):
                return

    def _request(self, conversation: Conversation, tools: Toolset, task: AgentTask) -> Request:
        return Request(
            model="policy",
            messages=conversation.messages,
            tools=tools.tools,
            sampling=sampling_of(self._sampling, task),
        )


def _tools(task: AgentTask, env: AgentEnv) -> Toolset:
    if task.instruction is not None and isinstance(env.action_space, TextSpace):
        return CommandTools(env, task.instruction)
    return ActionTools(env, task.instruction)


async def _all_called(
    completion: Completion, conversation: Conversation, tools: Toolset, turn: int
) -> bool:
    """Call what an answer asks for, in order; whether the episode is over."""
    for call in completion.tool_calls:
        try:
            arguments = _arguments(call, completion)
            answer = await tools.call(call.name, arguments, {"turn": turn, "tool": call.name})
        except Misused as misused:
            conversation.results(call, Answer.of_text(str(misused)), is_error=True)
            continue
        if answer.over:
            return True
        conversation.results(call, answer)
    return False


def _arguments(call: ToolCall, completion: Completion) -> Mapping[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError as error:
        cut = " (the answer was cut off at its limit of tokens)"
        why = f"{error}{cut if completion.finish_reason == 'length' else ''}"
        raise Misused(f"{call.name}: its arguments are no JSON: {why}") from None
    if not isinstance(arguments, dict):
        raise Misused(f"{call.name}: its arguments are no JSON object")
    return arguments
