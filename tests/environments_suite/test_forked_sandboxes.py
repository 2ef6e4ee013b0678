"""Snapshots and forks of environments with sandboxes: their files go on, and everything beside these."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

import megaflow
from docker_rig import new_scope
from fault_scene import wait_for
from leftovers import GONE_WITHIN, place
from lending_server import Server
from megaflow.errors import FailedPrecondition
from megaflow_envs.shipped import terminal_task

TASK = {"task": "megaflow:find-copies", "template": "box"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with place() as here:
        one = Server(here, "docker", new_scope())
        yield one
        one.process.send_signal(signal.SIGTERM)
        said = one.finish()
        assert "Traceback" not in said, said
        assert one.containers() == []
        here.assert_nothing_left()


def play(env: Any, *commands: str) -> list[Any]:
    return [env.step(command)[0] for command in commands]


@pytest.mark.long
@pytest.mark.requires("docker")
def test_sessions_go_on_from_the_files_and_the_shell_of_one(server: Server) -> None:
    solution = (terminal_task(TASK["task"]) / "solution" / "solve.sh").read_text()
    with megaflow.Client(server.address) as client:
        env: Any = client.make("megaflow/Terminal-v0", env_kwargs=TASK)
        env.reset(seed=1)
        play(env, f"cat >/tmp/solve <<'END'\n{solution}\nEND", "cd /tmp; export HALF=way")
        forks: list[Any] = client.fork(env, 2)
        snapshot = env.unwrapped.snapshot()
        look = 'pwd; ls; echo "$HALF"'
        assert {play(one, look)[0] for one in (env, *forks)} == {"/tmp\nsolve\nway"}
        # Each goes its own way.
        first, second = forks
        play(first, "sh /tmp/solve")
        play(second, "rm /tmp/solve")
        rewards = [one.step("submit")[1] for one in (first, second)]
        assert rewards == [1.0, 0.0]
        # And the one that they were made of goes back to where it was.
        play(env, "rm -r /tmp/solve; cd /; unset HALF")
        _, info = env.reset(options={"snapshot": snapshot})
        assert info == {"snapshot": snapshot}
        assert play(env, look)[0] == "/tmp\nsolve\nway"
        play(env, "sh /tmp/solve")
        assert env.step("submit")[1] == 1.0
        for one in (env, *forks):
            one.close()
        assert server.images()
        client.drop_snapshot(snapshot)
    server.wait_for_none()
    wait_for(lambda: not server.images(), 3 * GONE_WITHIN, server.images)


@pytest.mark.long
@pytest.mark.requires("namespaces")
def test_processes_keep_no_files_and_say_so() -> None:
    with place() as here:
        server = Server(here, "process", new_scope())
        try:
            with megaflow.Client(server.address) as client:
                env: Any = client.make("megaflow/Terminal-v0", env_kwargs=TASK)
                env.reset(seed=1)
                with pytest.raises(FailedPrecondition, match=r"sandbox: .*'commit'"):
                    env.unwrapped.snapshot()
                assert play(env, "echo on")[0] == "on"
                env.close()
        finally:
            server.process.kill()
            server.process.communicate()
