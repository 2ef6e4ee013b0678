"""Sandboxes of sessions: lent before an environment is made, one to each, and gone with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import megaflow
from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound, SessionLost
from megaflow.sandbox_request import SandboxRequest
from task_rig import write_task

pytestmark = pytest.mark.requires("namespaces")


class Taker(gym.Env[str, str]):
    """Runs each action as a command."""

    observation_space = gym.spaces.Text(1000)
    action_space = gym.spaces.Text(1000)

    def __init__(self, sandbox: Any, name: str = "") -> None:
        self.sandbox = sandbox
        self.name = name

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return self.sandbox.exec(action).stdout.text.strip(), 0.0, False, False, {}


class Mortal(Taker):
    """Its worker can be ended by an action."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Asker(Taker):
    """Says what its sandbox is to be like."""

    @classmethod
    def sandboxes(cls, name: str = "", **others: Any) -> Mapping[str, Any]:
        if name == "nonsense":
            return {"sandbox": name}
        template = "no-such" if name == "template" else None
        return {"sandbox": SandboxRequest(template=template, environ={"NAME": name})}


@pytest.fixture
def client() -> Iterator[megaflow.Client]:
    with megaflow.Client() as client:
        yield client


def leased(client: megaflow.Client) -> int:
    return sum(pool.leased for pool in client.pools())


def test_an_environment_is_lent_a_sandbox_until_it_is_closed(client: megaflow.Client) -> None:
    before = leased(client)
    env: Any = client.make(Taker)
    try:
        env.reset(seed=1)
        assert env.step("echo $((6 * 7))")[0] == "42"
        assert leased(client) == before + 1
    finally:
        env.close()
    wait_for(lambda: leased(client) == before)


@pytest.mark.parametrize("parallel", ["none", "process"])
def test_each_of_several_has_its_own(client: megaflow.Client, parallel: Any) -> None:
    before = leased(client)
    envs: Any = client.make_vec(Taker, num_envs=3, parallel=parallel)
    try:
        envs.reset(seed=1)
        envs.step(tuple(f"echo {i} >/tmp/mine" for i in range(3)))
        assert envs.step(("cat /tmp/mine",) * 3)[0] == ("0", "1", "2")
        assert leased(client) == before + 3
    finally:
        envs.close()
    wait_for(lambda: leased(client) == before)


def test_a_class_says_what_its_sandbox_is_to_be_like(client: megaflow.Client) -> None:
    env: Any = client.make(Asker, env_kwargs={"name": "fern"})
    try:
        env.reset(seed=1)
        assert env.step("echo $NAME")[0] == "fern"
    finally:
        env.close()


@pytest.mark.parametrize(
    ("name", "refusal"), [("template", NotFound), ("nonsense", InvalidArgument)]
)
def test_what_cannot_be_lent_is_refused(
    client: megaflow.Client, name: str, refusal: type[Exception]
) -> None:
    before = leased(client)
    with pytest.raises(refusal):
        client.make(Asker, env_kwargs={"name": name})
    assert leased(client) == before


def test_what_cannot_be_made_gives_its_sandbox_back(client: megaflow.Client) -> None:
    before = leased(client)
    with pytest.raises(TypeError):
        client.make(Taker, env_kwargs={"unknown": 1})
    wait_for(lambda: leased(client) == before)


def test_a_task_is_made_by_its_id(client: megaflow.Client, tmp_path: Path) -> None:
    task = write_task(tmp_path)
    env: Any = client.make("megaflow/Terminal-v0", env_kwargs={"task": str(task)})
    try:
        env.reset(seed=1)
        env.step("echo 42 >/app/answer")
        _, reward, terminated, _, info = env.step("submit")
        assert (reward, terminated, info["valid"]) == (1.0, True, True)
    finally:
        env.close()


def test_a_worker_that_dies_takes_its_sandbox_along(client: megaflow.Client) -> None:
    before = leased(client)
    env: Any = client.make(Mortal)
    try:
        env.reset(seed=1)
        with pytest.raises(SessionLost):
            env.step("die")
        wait_for(lambda: leased(client) == before)
    finally:
        env.close()


def test_inline_lends_none() -> None:
    with pytest.raises(FailedPrecondition, match="server=None"):
        megaflow.make(Taker, server="inline")


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
