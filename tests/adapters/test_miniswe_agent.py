"""The agent `mini-swe-agent`: the package itself, unchanged, at environments and models of ours."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import docker_images
import leftovers
import megaflow
from commands import SERVE, Served
from docker_rig import new_scope
from megaflow.agent import AgentTask
from megaflow.calls import CallRecord, rows
from megaflow.errors import InvalidArgument, Unavailable
from megaflow.generation import Completion, Request, Text, ToolCall, ToolResult
from megaflow.plugins import make_agent
from megaflow.testing.agents import LocalEnv
from megaflow.trajectory import ModelCall, Step, TrajectoryReader
from megaflow_adapters.models.scripted import Answer, ScriptedModel
from megaflow_envs.text import CHARACTERS

pytestmark = pytest.mark.requires("miniswe")

TESTS = str(Path(__file__).parent.parent)
SUBMISSION = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def bash(command: Any, **more: Any) -> ToolCall:
    return ToolCall("c1", "bash", json.dumps({"command": command, **more}))


class ShellEnv(gym.Env[str, str]):
    """Commands in one shell's folder, as Terminal-v0 has them; the reward is whether `done` is there."""

    observation_space = gym.spaces.Text(20_000)
    action_space = gym.spaces.Text(4000, min_length=0, charset=CHARACTERS)
    instruction = "Make it so."

    def __init__(self, folder: Path, most: int = 100) -> None:
        self.folder, self.left = folder, most
        self.place = folder / "place"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        return self.instruction, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        if action == "submit":
            return "", float((self.folder / "done").exists()), True, False, {}
        shell = shutil.which("bash") or "sh"
        # As one shell for the whole episode: the next command begins where this one was left.
        script = f'{action}\ncode=$?\npwd >"$PLACE"\nexit $code'
        ran = subprocess.run(
            [shell, "-c", script],
            cwd=self.place.read_text().strip() if self.place.exists() else self.folder,
            env={**os.environ, "PLACE": str(self.place)},
            capture_output=True,
            text=True,
            check=False,
        )
        code = ran.returncode
        said = ran.stdout + ran.stderr + (f"[exit code {code}]" if code else "")
        return said, 0.0, False, self.left == 0, {"exit_code": code}


def task_of(env: gym.Env[Any, Any], instruction: str | None = ShellEnv.instruction) -> AgentTask:
    return AgentTask(
        id="job/0",
        env="test",
        observation_space=env.observation_space,
        action_space=env.action_space,
        instruction=instruction,
        seed=5,
    )


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
    def told(self) -> list[str]:
        """What the last request has of the tools."""
        parts = [part for message in self.requests[-1].messages for part in message.parts]
        contents = [part.content for part in parts if isinstance(part, ToolResult)]
        return ["".join(one.text for one in some if isinstance(one, Text)) for some in contents]


async def attempt(folder: Path, asked: Asked, most: int = 100, **kwargs: Any) -> LocalEnv:
    env = ShellEnv(folder, most)
    local = LocalEnv(env, 5, solves=False)
    await make_agent("mini-swe-agent", kwargs).run(task_of(env), local, {"policy": asked.model})
    return local


async def test_a_task_is_worked_on_and_submitted(tmp_path: Path) -> None:
    asked = Asked(
        bash(
            "cd /; export GONE=1; touch 'of course'; echo out; echo 'it''s' >&2; echo more; (exit 3)"
        ),
        bash('echo "[$GONE] $PAGER"; pwd'),
        bash("cat <<'EOF' >done\n$yes\nEOF"),
        bash(SUBMISSION),
    )
    local = await attempt(tmp_path, asked)
    assert local.total == 1.0
    assert local.actions[-1] == "submit"
    assert (tmp_path / "done").read_text() == "$yes\n"
    first, second, _ = map(json.loads, asked.told)
    assert first == {"returncode": 3, "output": "out\nits\nmore\n"}
    # Each command is a shell of its own, as the package's prompt says.
    assert second == {"returncode": 0, "output": f"[] cat\n{tmp_path}\n"}
    system, task = asked.requests[0].messages
    assert (system.role, task.role) == ("system", "user")
    assert "Make it so." in str(task.parts)
    assert [tool.name for tool in asked.requests[0].tools] == ["bash"]
    assert asked.requests[0].sampling.seed == 5


async def test_what_cannot_be_run_is_told_and_nothing_is_done(tmp_path: Path) -> None:
    wrong = [
        ToolCall("c", "look", "{}"),
        ToolCall("c", "bash", '{"command": '),
    ]
    asked = Asked("Hm.", *wrong[:1], bash(7), wrong[1], bash("x" * 4000), bash(SUBMISSION))
    local = await attempt(tmp_path, asked)
    assert len(local.actions) == 2
    said = [str(message.parts) for message in asked.requests[-1].messages if message.role == "user"]
    for words, one in zip(("No tool calls", "look", "parsing"), said[1:], strict=True):
        assert words in one
    assert "takes text" in asked.told[0]
    assert "the environment takes 4000" in asked.told[1]


async def test_all_calls_of_an_answer_are_made_and_shown_to_the_model_as_it_made_them(
    tmp_path: Path,
) -> None:
    both = Completion(
        "m",
        (
            Text("Two."),
            ToolCall("1", "bash", '{"command":   "echo a"}'),
            ToolCall("2", "bash", '{"command": "echo b"}'),
        ),
        "tool_calls",
    )
    asked = Asked(both, bash(SUBMISSION))
    await attempt(tmp_path, asked)
    assert asked.requests[-1].messages[2].parts == both.parts
    assert [json.loads(one)["output"].strip() for one in asked.told] == ["a", "b"]


async def test_it_stops_at_the_episodes_end_and_at_its_limits(tmp_path: Path) -> None:
    many = [bash("true")] * 5
    assert len((await attempt(tmp_path, Asked(*many), most=2)).actions) == 2
    limited = await attempt(tmp_path, Asked(*many), config={"agent": {"step_limit": 3}})
    assert len(limited.actions) == 3
    idle = Asked(*["No."] * 3)
    assert (await attempt(tmp_path, idle)).actions == []
    assert len(idle.requests) == 3


async def test_a_model_that_fails_ends_the_attempt_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="away"):
        await attempt(tmp_path, Asked(bash("true"), Unavailable("away")))


@pytest.mark.parametrize("during", ["model", "env"])
async def test_a_deadline_ends_what_is_under_way_and_the_thread(
    tmp_path: Path, during: str
) -> None:
    asking, forever = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def hang() -> Any:
        asking.set()
        try:
            await forever.wait()
        finally:
            ended.append(during)

    class Hanging(ScriptedModel):
        async def generate(self, request: Request) -> Completion:
            if during == "model":
                await hang()
            return await super().generate(request)

    class Stuck(LocalEnv):
        async def step(self, *_: Any) -> Any:
            await hang()

    env = ShellEnv(tmp_path)
    threads = set(threading.enumerate())
    agent = make_agent("mini-swe-agent", {})
    running = asyncio.create_task(
        agent.run(
            task_of(env), Stuck(env, 5, solves=False), {"policy": Hanging([bash("true")] * 9)}
        )
    )
    await asking.wait()
    (thread,) = set(threading.enumerate()) - threads
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == [during]
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()


async def test_it_is_for_shells_with_an_instruction(tmp_path: Path) -> None:
    agent, env = make_agent("mini-swe-agent", {}), ShellEnv(tmp_path)
    for task, words in (
        (task_of(env, None), "no instruction"),
        (task_of(gym.make("CartPole-v1")), "actions Discrete"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            await agent.run(task, LocalEnv(env, 5, solves=False), {})


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"config": {"run": {}}}, "run: known are agent"),
        ({"config": {"agent": 3}}, "config.agent=3"),
        ({"config": {"agent": {"cost_limit": 1}}}, "cost_limit: there is a use for instance_templ"),
        ({"config": {"agent": {"step_limit": "many"}}}, "step_limit"),
        ({"config": {"environment": {"env": {"A B": "c"}}}}, "A B='c'"),
        ({"sampling": {"heat": 1}}, "sampling: heat: known are max_tokens"),
    ],
)
def test_arguments_that_are_none_are_named(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        make_agent("mini-swe-agent", kwargs)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """`megaflow serve ARGUMENTS…`, with a store and a runner that knows the models of the tests."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("PYTHONPATH", TESTS)
    with ExitStack() as running, leftovers.place() as here:
        monkeypatch.setattr(tempfile, "tempdir", str(here.temporary))

        def start(config: str = "") -> str:
            places = ("--listen", f"unix:{here.folder / 's.sock'}")
            store = ("--store", f"sqlite:///{here.folder / 'tasks.db'}")
            file = str(here.script("megaflow.toml", config))
            process = here.start(
                *SERVE, *places, *store, "--config", file, "--import", "solving_models"
            )
            served = Served(running.enter_context(process), 1)
            running.callback(served.end)
            return served.addresses[0]

        yield start


def solve(address: str, **fields: str) -> None:
    """The task find-copies is solved, and the trajectory has all that was asked and done, in order."""
    with megaflow.Client(address) as client:
        task = megaflow.Task(
            "megaflow/Terminal-v0",
            "mini-swe-agent",
            env_kwargs={"task": "megaflow:find-copies", **fields},
            models={"policy": "bash-solver"},
        )
        (solved,) = client.submit([task]).results(timeout=200)
    assert solved.failure is None
    assert solved.reward == 1.0
    records = [
        one for one in TrajectoryReader(solved.trajectory) if isinstance(one, ModelCall | Step)
    ]
    assert [one.kind for one in records] == [ModelCall.kind, Step.kind] * 4 + [Step.kind]
    tools = [one.agent_info["tool"] for one in records if isinstance(one, Step)]
    assert tools == ["bash", "bash", "bash", "bash", "submit"]
    calls = [CallRecord.from_dict(one.call) for one in records if isinstance(one, ModelCall)]
    for call in calls:
        assert call.completion_token_ids
        assert call.logprobs
        assert len(call.completion_token_ids) == len(call.logprobs)
    # One conversation, continued at every turn: one row for training.
    assert len(rows(calls)) == 1


@pytest.mark.requires("namespaces")
@pytest.mark.timeout(240)
def test_a_shipped_task_is_solved_and_every_call_recorded(address: Callable[..., str]) -> None:
    solve(address())


@pytest.mark.requires("docker")
@pytest.mark.timeout(400)
def test_it_is_solved_in_a_container_without_network(address: Callable[..., str]) -> None:
    here = address(
        f'[docker]\nscope = "{new_scope()}"\n[templates.bench]\nbackend = "docker"\n'
        f'image = "{docker_images.workbench()}"\nprofile = "standard"\nnetwork = "none"\n'
    )
    solve(here, template="bench")
