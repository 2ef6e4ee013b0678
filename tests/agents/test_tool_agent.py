"""The agent `tool`: what it asks its model, and what it makes of the answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from megaflow import Agent
from megaflow.agent import AgentTask
from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.generation import Completion, Image, Request, Text, ToolCall, ToolResult, Usage
from megaflow.model import Model
from megaflow.plugins import make_agent
from megaflow.testing.agents import AgentContract, LocalEnv
from megaflow_adapters.models.scripted import Answer, ScriptedModel
from megaflow_envs.text import CHARACTERS


def called(name: str, **arguments: Any) -> ToolCall:
    return ToolCall("c1", name, json.dumps(arguments))


class ShellEnv(gym.Env[str, str]):
    """Commands in a folder; the reward is what `done` there says."""

    observation_space = gym.spaces.Text(20_000)
    action_space = gym.spaces.Text(4000, min_length=0, charset=CHARACTERS)
    instruction = "Make it so."

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        return self.instruction, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "submit":
            done = (self.folder / "done").exists()
            return "", float(done), True, False, {}
        ran = subprocess.run(
            ["sh", "-c", action], cwd=self.folder, capture_output=True, text=True, check=False
        )
        return ran.stdout + ran.stderr, 0.0, False, False, {"exit_code": ran.returncode}


class Asked:
    """A model that gives these answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[Request] = []
        self._answers = iter(answers)
        self.model = ScriptedModel(self._answer)

    def _answer(self, request: Request) -> Answer:
        self.requests.append(request)
        return next(self._answers)

    @property
    def last(self) -> list[str]:
        """What each message of the last request says."""
        return [" ".join(map(said, message.parts)) for message in self.requests[-1].messages]


def said(part: object) -> str:
    match part:
        case ToolResult():
            return ("error: " if part.is_error else "") + " ".join(map(said, part.content))
        case Text():
            return part.text
        case Image():
            return "(image)"
    return "(call)"


async def attempt(
    asked: Asked, env: gym.Env[Any, Any], instruction: str | None = None, **kwargs: Any
) -> LocalEnv:
    agent = make_agent("tool", kwargs)
    local = LocalEnv(env, 5, solves=False)
    task = AgentTask(
        id="job/0",
        env="test",
        observation_space=env.observation_space,
        action_space=env.action_space,
        instruction=instruction,
        seed=5,
    )
    await agent.run(task, local, {"policy": asked.model})
    return local


async def in_a_shell(folder: Path, asked: Asked, **kwargs: Any) -> LocalEnv:
    return await attempt(asked, ShellEnv(folder), ShellEnv.instruction, **kwargs)


class TestTool(AgentContract):
    def make_agent(self) -> Agent:
        return make_agent("tool", {})

    def make_models(self) -> Mapping[str, Model]:
        def leans(request: Request) -> Answer:
            seen = said(request.messages[-1].parts[0]).partition("observation: ")[2]
            observation, _ = json.JSONDecoder().raw_decode(seen)
            return called("act", action=int(observation[2] > 0))

        return {"policy": ScriptedModel(leans)}


async def test_a_task_is_worked_on_and_submitted(tmp_path: Path) -> None:
    asked = Asked(
        called("write", path="a folder/notes", content="one\n$two `three`\n"),
        called("edit", path="a folder/notes", old="$two", new="'2'"),
        called("shell", command="cat 'a folder/notes'; touch done; exit 3"),
        called("submit"),
    )
    local = await in_a_shell(tmp_path, asked)
    assert local.total == 1.0
    assert (tmp_path / "a folder" / "notes").read_text() == "one\n'2' `three`\n"
    system, task, *turns = asked.last
    assert "submit" in system
    assert task == "Make it so."
    assert turns[1::2] == ["[no output]", "[no output]", "one\n'2' `three`\n\n[exit code 3]"]
    assert {tool.name for tool in asked.requests[0].tools} == {"shell", "edit", "write", "submit"}
    # The task's seed, so that a sample is repeated as it was.
    assert asked.requests[0].sampling.seed == 5


async def test_what_cannot_be_called_is_told_and_nothing_is_done(tmp_path: Path) -> None:
    wrong: list[tuple[ToolCall, str]] = [
        (called("look", at="it"), "there is no tool 'look'; there are shell, edit, write, submit"),
        (called("shell"), "command is missing"),
        (called("shell", command=7), "command is 7; it takes text"),
        (called("shell", command=" submit "), "call the tool submit"),
        (called("shell", command="x" * 5000), "5000 characters"),
        (called("edit", path="a", old="", new="b"), "old is empty"),
        (called("write", path="", content=""), "name a file"),
        (ToolCall("c", "shell", '{"command": '), "no JSON"),
        (ToolCall("c", "shell", "[1]"), "no JSON object"),
    ]
    asked = Asked(*(call for call, _ in wrong), called("submit"))
    local = await in_a_shell(tmp_path, asked)
    assert local.actions == ["submit"]
    for told, (_, words) in zip(asked.last[3::2], wrong, strict=True):
        assert told.startswith("error: ")
        assert words in told


@pytest.mark.parametrize(
    ("text", "old", "words"),
    [("b\n", "a", "0 times"), ("aa\n", "a", "2 times"), ("aaa", "aa", "2 times")],
)
async def test_an_edit_of_another_number_of_places_is_refused(
    tmp_path: Path, text: str, old: str, words: str
) -> None:
    (tmp_path / "f").write_text(text)
    asked = Asked(called("edit", path="f", old=old, new="c"), called("submit"))
    await in_a_shell(tmp_path, asked)
    assert (tmp_path / "f").read_text() == text
    assert words in asked.last[-1]
    assert "[exit code 1]" in asked.last[-1]


async def test_several_calls_of_one_answer_are_made_in_order(tmp_path: Path) -> None:
    both = Completion(
        "m",
        (ToolCall("1", "shell", '{"command": "echo first"}'), ToolCall("2", "submit", "{}")),
        "tool_calls",
    )
    local = await in_a_shell(tmp_path, Asked(both))
    assert local.actions == ["echo first", "submit"]


async def test_one_that_calls_nothing_is_asked_to_and_then_left(tmp_path: Path) -> None:
    asked = Asked("Hm.", "Well.", called("shell", command="true"), "So.", "And?", "No.")
    local = await in_a_shell(tmp_path, asked)
    assert local.actions == ["true"]
    assert not local.over
    assert asked.last.count("That called no tool. Call one; nothing else has an effect.") == 4


async def test_it_stops_after_so_many_turns(tmp_path: Path) -> None:
    asked = Asked(*[called("shell", command="true")] * 3)
    local = await in_a_shell(tmp_path, asked, max_turns=3)
    assert local.actions == ["true"] * 3


async def test_old_answers_are_left_out_of_what_would_be_too_long(tmp_path: Path) -> None:
    asked = Asked(*[called("shell", command="printf %4000d 7")] * 6, called("submit"))
    local = await in_a_shell(tmp_path, asked, context_tokens=12_000)
    assert local.over
    answers = asked.last[3::2]
    assert answers[0].startswith("[left out")
    assert len(answers[-1]) == 4000
    for request in asked.requests:
        shown = sum(len(said(part)) for message in request.messages for part in message.parts)
        assert shown < 12_000


async def test_its_estimate_follows_what_the_engine_counts(tmp_path: Path) -> None:
    # Ten tokens to a character: what looks short is not.
    def counted(request: Request) -> Completion:
        size = sum(len(said(part)) for message in request.messages for part in message.parts)
        call = called("shell", command="printf %400d 7")
        return Completion("m", (call,), "tool_calls", Usage(size, 1))

    asked = Asked(*[called("submit")])
    answers: list[Callable[[Request], Completion]] = [counted] * 6

    def answer(request: Request) -> Answer:
        asked.requests.append(request)
        return answers.pop()(request) if answers else called("submit")

    asked.model = ScriptedModel(answer)
    await in_a_shell(tmp_path, asked, context_tokens=1500)
    assert any("[left out" in one for one in asked.last)


async def test_what_is_too_long_all_the_same_is_told(tmp_path: Path) -> None:
    asked = Asked(called("shell", command="printf %9000d 7"), called("submit"))
    with pytest.raises(FailedPrecondition, match="context_tokens=1000"):
        await in_a_shell(tmp_path, asked, context_tokens=1000)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"max_turns": 0}, "max_turns=0"),
        ({"max_turns": True}, "max_turns=True"),
        ({"context_tokens": 1.5}, "context_tokens=1.5"),
        ({"sampling": {"heat": 1}}, "sampling: heat: known are max_tokens"),
    ],
)
def test_arguments_that_are_none_are_named(kwargs: Mapping[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        make_agent("tool", kwargs)
