"""What an agent leaves running, or does to what serves its sandbox, has no part in the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from megaflow.sandbox_proxy import SandboxProxy
from sandbox_host import SandboxHost
from task_rig import outcome, submitted, terminal, write_task

pytestmark = pytest.mark.requires("namespaces")

RIGHT, WRONG = "echo 42 >/app/answer", "echo 41 >/app/answer"


@pytest.fixture
def sandbox() -> Iterator[SandboxProxy]:
    host = SandboxHost()
    sandbox = host.make("process")
    yield sandbox
    host.destroy(sandbox)
    host.close()


def test_entering_the_verifiers_phase_ends_all_from_outside(sandbox: SandboxProxy) -> None:
    sandbox.enter("agent")
    shell = sandbox.shell()
    shell.run("(setsid sleep 987 >/dev/null 2>&1 &)")
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 987'"
    streams = "cat /dev/shm/.megaflow-*/loop.* ; echo /dev/shm/.megaflow-*"
    assert sandbox.exec(look).stdout == b"1\n"
    before = sandbox.exec(streams).stdout
    sandbox.enter("verifier")
    assert sandbox.exec(look).stdout == b"0\n"
    assert sandbox.exec(streams).stdout != before


@pytest.mark.parametrize(("answer", "reward"), [(RIGHT, 1.0), (WRONG, 0.0)])
def test_an_agent_that_kills_what_serves_its_sandbox_is_judged(
    sandbox: SandboxProxy, tmp_path: Path, answer: str, reward: float
) -> None:
    env = terminal(write_task(tmp_path), sandbox)
    env.reset()
    env.step(answer)
    said, _, terminated, truncated, info = env.step("kill -9 -1")
    assert "this is a new shell" in said
    assert (terminated, truncated, info["exit_code"]) == (False, False, 137)
    assert env.step("echo on")[0].strip() == "on"
    assert submitted(env) == reward
    assert outcome(env, RIGHT) == 1.0
