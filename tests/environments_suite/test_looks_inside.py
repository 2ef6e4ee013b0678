"""A person's look into sandboxes of sessions and snapshots, by the SDK and by `megaflow shell`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import megaflow
from commands import run_command
from docker_rig import new_scope
from fault_scene import wait_for
from leftovers import place
from lending_server import Server
from lent_environments import TAKER
from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from megaflow.inside import SandboxInfo, Terminal
from megaflow_envs.shipped import terminal_task

KINDS = [
    pytest.param("process", marks=pytest.mark.requires("namespaces")),
    pytest.param("docker", marks=pytest.mark.requires("docker")),
]
TASK = {"task": "megaflow:find-copies", "template": "box"}


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with place() as here:
        one = Server(here, request.param, new_scope())
        yield one
        one.process.send_signal(signal.SIGTERM)
        said = one.finish()
        assert "Traceback" not in said, said
        if one.kind == "docker":
            assert one.containers() == []
        here.assert_nothing_left()


@pytest.fixture
def client(server: Server) -> Iterator[megaflow.Client]:
    with megaflow.Client(server.address) as client:
        yield client
    server.wait_for_none()


@pytest.fixture
def env(client: megaflow.Client) -> Iterator[Any]:
    env: Any = client.make(TAKER)
    env.reset(seed=1)
    env.step("echo mine >/tmp/mine")
    yield env
    env.close()


def the_one(client: megaflow.Client) -> SandboxInfo:
    (one,) = client.sandboxes()
    return one


def shown(terminal: Terminal, until: str = "") -> str:
    text = ""
    while not (until and until in text):
        data = terminal.read()
        if not data:
            break
        text += data.decode()
    assert until in text
    return text


def test_sandboxes_are_listed(server: Server, client: megaflow.Client, env: Any) -> None:
    one = the_one(client)
    assert (one.kind, one.owner, one.environment) == ("session", "local", TAKER)
    assert (one.sandbox, one.template) == ("sandbox", "box")
    assert (one.image is None) == (server.kind == "process")


def test_a_command_sees_what_the_environment_left(client: megaflow.Client, env: Any) -> None:
    session = the_one(client).id
    ended = client.run_inside(session, "cat /tmp/mine; echo oh >&2; exit 7", cwd="/tmp")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (7, b"mine\n", b"oh\n")
    cut = client.run_inside(session, "seq 1 1000", output_limit=10)
    assert len(cut.stdout) == 10
    assert cut.stdout.omitted == 3883
    assert client.run_inside(session, "sleep 100", timeout=0.2).timed_out
    client.run_inside(session, "echo yours >/tmp/mine")
    assert env.step("cat /tmp/mine")[0] == "yours"


def test_a_terminal_is_beside_what_the_environment_runs(client: megaflow.Client, env: Any) -> None:
    with client.terminal(the_one(client).id, rows=31, columns=99) as terminal:
        assert terminal.sandbox == "sandbox"
        terminal.write(b"stty size; cat /tmp/mine; echo en''ded\n")
        said = shown(terminal, "ended")
        assert "31 99\r\nmine\r\n" in said
        assert env.step("echo alive")[0] == "alive"
        terminal.write(b"exit 4\n")
        shown(terminal)
        assert (terminal.exit_code, terminal.signal, terminal.status) == (4, None, 4)
        assert terminal.read() == b""


def test_an_asynchronous_client_looks_too(
    server: Server, client: megaflow.Client, env: Any
) -> None:
    async def look() -> int | None:
        async with megaflow.AsyncClient(server.address) as looking:
            (one,) = await looking.sandboxes()
            assert (await looking.run_inside(one.id, "cat /tmp/mine")).stdout == b"mine\n"
            async with await looking.terminal(one.id, "read a; exit $a") as terminal:
                terminal.resize(10, 10)
                terminal.write(b"9\n")
                while await terminal.read():
                    pass
                return terminal.status

    assert asyncio.run(look()) == 9


def test_a_terminal_ends_with_its_session(client: megaflow.Client) -> None:
    env: Any = client.make(TAKER)
    env.reset(seed=1)
    with client.terminal(the_one(client).id, "echo begun; sleep 1000") as terminal:
        shown(terminal, "begun")
        env.close()
        with contextlib.suppress(megaflow.errors.MegaflowError):
            shown(terminal)
        assert terminal.exit_code is None


def test_a_client_that_goes_hangs_up(client: megaflow.Client, env: Any) -> None:
    session = the_one(client).id
    command = "trap 'echo yes >/tmp/hung; exit' HUP; echo ready; while :; do sleep 0.1; done"
    with client.terminal(session, command) as terminal:
        shown(terminal, "ready")
    waiting = "until [ -s /tmp/hung ]; do sleep 0.1; done; cat /tmp/hung"
    assert client.run_inside(session, waiting, timeout=20).stdout == b"yes\n"


def test_what_is_no_sandbox_of_ours_is_refused(client: megaflow.Client, env: Any) -> None:
    session = the_one(client).id
    with pytest.raises(NotFound, match="neither a session nor a snapshot"):
        client.run_inside("nothing", "true")
    with pytest.raises(NotFound, match="neither a session nor a snapshot"):
        client.terminal("nothing")
    with pytest.raises(NotFound, match=f"sandbox='other': {session} has sandbox"):
        client.run_inside(session, "true", sandbox="other")
    bare = client.make("CartPole-v1")
    with pytest.raises(FailedPrecondition, match="no sandbox to look into"):
        client.terminal(bare.unwrapped._live.session.id)  # type: ignore[attr-defined]
    bare.close()
    with pytest.raises(InvalidArgument, match="rows=0"):
        client.terminal(session, rows=0)


def test_a_session_with_several_asks_which(client: megaflow.Client) -> None:
    envs: Any = client.make_vec(TAKER, num_envs=3)
    envs.reset(seed=1)
    envs.step(tuple(f"echo {i} >/tmp/mine" for i in range(3)))
    names = sorted(one.sandbox for one in client.sandboxes())
    assert names == ["sandbox/0", "sandbox/1", "sandbox/2"]
    session = client.sandboxes()[0].id
    with pytest.raises(InvalidArgument, match="several: name one of sandbox/0, sandbox/1"):
        client.run_inside(session, "true")
    for number, name in enumerate(names):
        assert client.run_inside(session, "cat /tmp/mine", sandbox=name).stdout == b"%d\n" % number
    envs.close()


def test_a_sandbox_that_was_looked_into_is_not_used_again(
    server: Server, client: megaflow.Client
) -> None:
    def created() -> int:
        return sum(one.created for one in client.pools())

    before = created()
    for look in (True, False):
        env: Any = client.make(TAKER)
        env.reset(seed=1)
        assert not env.step("cat /tmp/left")[0]
        if look:
            client.run_inside(the_one(client).id, "echo here >/tmp/left")
        env.close()
        server.wait_for_none()
    assert created() - before >= 1


def test_the_command_runs_one(
    server: Server, client: megaflow.Client, env: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    session = the_one(client).id
    at = ("--server", server.address)
    ended = run_command(capsys, "shell", session, *at, "--", "cat /tmp/mine; echo oh >&2; exit 7")
    assert (ended.status, ended.out, ended.err) == (7, "mine\n", "oh\n")
    ended = run_command(capsys, "shell", session, *at, "--", "printf", "%s|", "a b", "$HOME")
    assert (ended.status, ended.out) == (0, "a b|$HOME|")
    listed = run_command(capsys, "shell", *at)
    assert session in listed.out
    assert TAKER in listed.out
    refused = run_command(capsys, "shell", session, *at)
    assert refused.status == 2
    assert "no terminal: give a command" in refused.err
    refused = run_command(capsys, "shell", "nothing", *at, "--", "true")
    assert refused.status == 2


def test_the_command_at_a_terminal(server: Server, client: megaflow.Client, env: Any) -> None:
    session = the_one(client).id
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "megaflow_server", "shell", session]
    process = subprocess.Popen(
        [*command, "--server", server.address], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)

    def until(expected: str) -> None:
        text, end = "", time.monotonic() + 30
        while not re.search(expected, text):
            ready, _, _ = select.select([ours], [], [], max(0.0, end - time.monotonic()))
            assert ready, text
            text += os.read(ours, 4096).decode(errors="replace")

    until("[$#] ")
    os.write(ours, b"PS1='no''w> '\n")
    until("now> ")
    os.write(ours, b"sh -c 'echo begu''n; exec sleep 1000'\n")
    until("begun")
    os.write(ours, b"\x03")  # to the command there, and not to this one here
    until("now> ")
    os.write(ours, b"exit 6\n")
    assert process.wait(30) == 6
    os.close(ours)


@pytest.mark.long
@pytest.mark.parametrize("server", ["docker"], indirect=True)
@pytest.mark.requires("docker")
def test_what_a_snapshot_holds(server: Server, client: megaflow.Client) -> None:
    assert terminal_task(TASK["task"]).is_dir()
    env: Any = client.make("megaflow/Terminal-v0", env_kwargs=TASK)
    env.reset(seed=1)
    env.step("echo then >/tmp/mine")
    snapshot = env.unwrapped.snapshot()
    env.step("echo now >/tmp/mine")
    assert {one.id: one.kind for one in client.sandboxes()}[snapshot] == "snapshot"
    for _ in range(2):  # what is changed there is thrown away
        look = "cat /tmp/mine; echo changed >/tmp/mine"
        assert client.run_inside(snapshot, look).stdout == b"then\n"
    with client.terminal(snapshot, "cat /tmp/mine") as terminal:
        assert "then" in shown(terminal)
    assert env.step("cat /tmp/mine")[0] == "now"
    env.close()
    client.drop_snapshot(snapshot)
    with pytest.raises(NotFound, match="neither a session nor a snapshot"):
        client.run_inside(snapshot, "true")
    wait_for(lambda: server.images() == [], 20, server.images)
