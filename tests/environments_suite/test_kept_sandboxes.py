"""Sandboxes that outlive their sessions: which do, who looks at them, and how they go."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import megaflow
from commands import run_command
from docker_rig import new_scope
from fault_scene import wait_for
from leftovers import place
from lending_server import LEASE, Server
from lent_environments import TAKER
from megaflow.errors import InvalidArgument, NotFound, SessionLost
from megaflow.inside import SandboxInfo

KINDS = [
    pytest.param("process", marks=pytest.mark.requires("namespaces")),
    pytest.param("docker", marks=pytest.mark.requires("docker")),
]


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
        for one in client.sandboxes():
            client.drop_sandboxes(one.id)
    server.wait_for_none()


def kept(client: megaflow.Client) -> list[SandboxInfo]:
    return [one for one in client.sandboxes() if one.kind == "kept"]


def one_kept(client: megaflow.Client) -> SandboxInfo:
    wait_for(lambda: len(kept(client)) == 1, 20.0, lambda: client.sandboxes())
    return kept(client)[0]


def played(client: megaflow.Client, *actions: str, **options: Any) -> str:
    """The session of an environment that was given these actions, and closed."""
    env: Any = client.make(TAKER, **options)
    env.reset(seed=1)
    session = env.unwrapped.session_id
    for action in actions:
        with contextlib.suppress(ValueError, SessionLost):
            env.step(action)
    env.close()
    return str(session)


@pytest.mark.parametrize("ending", ["score 0", "score -1", "void", "raise", "die"])
def test_what_failed_is_kept_with_its_files_and_none_of_its_processes(
    client: megaflow.Client, ending: str
) -> None:
    session = played(
        client, "sleep 4242 & echo mine >/tmp/mine", ending, keep="failed", keep_for=600
    )
    one = one_kept(client)
    assert (one.id, one.environment, one.sandbox, one.task) == (session, TAKER, "sandbox", None)
    assert one.left is not None
    assert 500 < one.left <= 600
    ended = client.run_inside(session, "cat /tmp/mine; cat /proc/[0-9]*/cmdline")
    assert ended.stdout.startswith(b"mine\n")
    assert "4242" not in ended.stdout.text
    client.drop_sandboxes(session)
    assert kept(client) == []
    with pytest.raises(NotFound, match="has left a sandbox"):
        client.run_inside(session, "true")


@pytest.mark.parametrize("ending", ["score 1", "true"])
def test_what_went_well_or_was_left_is_kept_only_where_all_is(
    server: Server, client: megaflow.Client, ending: str
) -> None:
    played(client, ending, keep="failed")
    played(client, ending)
    server.wait_for_none()
    assert kept(client) == []
    played(client, ending, keep="all")
    one_kept(client)


def test_an_environment_keeps_its_sandbox_by_itself(client: megaflow.Client) -> None:
    env: Any = client.make(TAKER)
    env.reset()
    env.unwrapped.keep_sandbox(30)
    session = env.unwrapped.session_id
    env.close()
    assert one_kept(client).id == session


def test_one_that_was_made_anew_leaves_both(server: Server, client: megaflow.Client) -> None:
    env: Any = client.make(TAKER, keep="failed")
    env.reset()
    env.step("echo first >/tmp/mine")
    with pytest.raises(SessionLost):
        env.step("die")
    env.reset()
    session = env.unwrapped.session_id
    # The one that runs is meant by the session's id.
    assert client.run_inside(session, "cat /tmp/mine").exit_code == 1
    env.step("score 1")
    env.close()
    # Until it is gone, the one that ran is meant.
    wait_for(lambda: [one.kind for one in client.sandboxes()] == ["kept"], 20.0, client.sandboxes)
    assert client.run_inside(session, "cat /tmp/mine").stdout == b"first\n"


@pytest.mark.long
def test_it_goes_when_its_time_is_over_and_nobody_looks(
    server: Server, client: megaflow.Client
) -> None:
    session = played(client, "score 0", keep="failed", keep_for=3)
    one_kept(client)
    with client.terminal(session, "echo begun; sleep 1000") as terminal:
        assert b"begun" in terminal.read()
        wait_for(lambda: kept(client)[0].left == 0.0, 20.0, lambda: kept(client))
        assert client.run_inside(session, "echo still").stdout == b"still\n"
    server.wait_for_none()


def test_it_gives_way_to_whoever_needs_its_room(client: megaflow.Client) -> None:
    sessions: list[str] = []
    while len(sessions) < 3:
        sessions.append(played(client, "score 0", keep="failed"))
        # One after the other, since it is the first that gives way.
        wait_for(lambda: len(kept(client)) == len(sessions), 20.0, client.sandboxes)
    env: Any = client.make(TAKER, env_start_timeout=60)
    env.reset()
    assert {one.id for one in kept(client)} == set(sessions[1:])
    env.close()


def test_what_a_client_leaves_that_is_killed_is_kept(
    server: Server, client: megaflow.Client
) -> None:
    script = server.here.script(
        "killed.py",
        "import os, signal, megaflow, lent_environments\n"
        f"env = megaflow.make({TAKER!r}, server={server.address!r}, keep='failed')\n"
        "env.reset()\n"
        "env.step('echo last >/tmp/mine')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    killed = server.here.start(str(script))
    said = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, said
    wait_for(lambda: len(kept(client)) == 1, 20.0 + LEASE, lambda: client.sandboxes())
    assert client.run_inside(kept(client)[0].id, "cat /tmp/mine").stdout == b"last\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "some"}, "keep='some': choose among none, failed, all"),
        ({"keep": "all", "keep_for": 0}, "keep_for=0"),
        ({"keep": "all", "keep_for": 1e6}, "keep_for=1000000.0"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    client: megaflow.Client, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said):
        client.make(TAKER, **options)
    assert client.sandboxes() == []


def test_the_command_line_lists_and_lets_go(
    server: Server, client: megaflow.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    session = played(client, "echo mine >/tmp/mine", "score 0", keep="failed")
    one_kept(client)
    shell = ("shell", "--server", server.address)
    listed = run_command(capsys, *shell)
    assert "kept" in listed.out
    assert session in listed.out
    assert client.run_inside(session, "cat /tmp/mine").stdout == b"mine\n"
    dropped = run_command(capsys, *shell, session, "--drop")
    assert (dropped.status, dropped.out) == (0, f"Gone: 1 sandbox of {session}.\n")
    assert kept(client) == []
    again = run_command(capsys, *shell, session, "--drop")
    assert (again.status, "nothing is kept" in again.err) == (1, True)
