"""Sessions with sandboxes behind `megaflow serve`, of processes and of containers, and whatever may end them."""

from __future__ import annotations

import functools
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import megaflow
from docker_rig import new_scope
from fault_scene import wait_for
from leftovers import GONE_WITHIN, place
from lending_server import LEASE, Server
from lent_environments import TAKER
from megaflow.errors import FailedPrecondition, InvalidArgument, SessionLost
from megaflow_envs.shipped import swe_dataset, terminal_task
from megaflow_envs.swe import load_row

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
    server.wait_for_none()


def test_an_environment_is_lent_a_sandbox_until_it_is_closed(
    server: Server, client: megaflow.Client, tmp_path: Path
) -> None:
    env: Any = client.make(TAKER, env_kwargs={"parting": str(tmp_path / "said")})
    env.reset(seed=1)
    assert env.step("echo mine >/tmp/mine; echo $((6 * 7))")[0] == "42"
    assert server.leased() == 1
    env.close()
    assert (tmp_path / "said").read_text() == "mine\n"


def test_each_of_several_has_its_own(client: megaflow.Client) -> None:
    envs: Any = client.make_vec(TAKER, num_envs=3)
    envs.reset(seed=1)
    envs.step(tuple(f"echo {i} >/tmp/mine" for i in range(3)))
    assert envs.step(("cat /tmp/mine",) * 3)[0] == ("0", "1", "2")
    envs.close()


def test_a_task_at_a_terminal(client: megaflow.Client) -> None:
    kwargs = {"task": "megaflow:find-copies", "template": "box"}
    env: Any = client.make("megaflow/Terminal-v0", env_kwargs=kwargs)
    script = (terminal_task("megaflow:find-copies") / "solution" / "solve.sh").read_text()
    for said, expected in ((script, 1.0), ("true", 0.0)):
        env.reset(seed=1)
        env.step(f"cat >/tmp/solve <<'END'\n{said}\nEND\nsh /tmp/solve")
        _, reward, terminated, _, info = env.step("submit")
        assert (reward, terminated, info["valid"]) == (expected, True, True)
    env.close()


def test_a_task_in_a_repository(server: Server, client: megaflow.Client) -> None:
    if server.kind == "docker":
        pytest.skip("its image has neither git nor python")
    row = load_row(swe_dataset("megaflow:swe"), "megaflow__ranges-2")
    kwargs = {"dataset": "megaflow:swe", "instance_id": row.instance_id, "template": "box"}
    env: Any = client.make("megaflow/SWE-v0", env_kwargs=kwargs)
    env.reset(seed=1)
    env.step(f"cd /testbed; git apply <<'END'\n{row.patch}END\n")
    _, reward, terminated, _, info = env.step("submit")
    assert (reward, terminated, info["valid"]) == (1.0, True, True)
    env.close()


def test_what_takes_the_place_of_a_lost_one_has_a_sandbox_of_its_own(
    server: Server, client: megaflow.Client
) -> None:
    envs: Any = client.make_vec(TAKER, num_envs=2, on_lost="truncate")
    envs.reset(seed=1)
    envs.step(("echo 0 >/tmp/mine", "echo 1 >/tmp/mine"))
    _, _, _, truncations, infos = envs.step(("die", "true"))
    assert truncations[0]
    assert infos["lost"][0]
    envs.step(("true", "true"))
    seen = envs.step(("cat /tmp/mine || echo none",) * 2)[0]
    assert seen == ("none", "none" if truncations[1] else "1")
    wait_for(lambda: server.leased() == 2, GONE_WITHIN, server.leased)
    envs.close()


def test_a_worker_that_dies_takes_its_sandbox_along(
    server: Server, client: megaflow.Client
) -> None:
    env: Any = client.make(TAKER)
    env.reset(seed=1)
    with pytest.raises(SessionLost):
        env.step("die")
    server.wait_for_none()
    env.close()


def test_an_environment_whose_sandbox_is_gone_is_made_anew_with_another(
    server: Server, client: megaflow.Client
) -> None:
    env: Any = client.make(TAKER)
    env.reset(seed=1)
    env.step("echo mine >/tmp/mine")
    with pytest.raises(SessionLost, match="sandbox: "):
        env.step("kill -9 -1; sleep 5")
    env.reset(seed=1)
    assert env.step("cat /tmp/mine || echo none")[0] == "none"
    env.close()
    envs: Any = client.make_vec(TAKER, num_envs=2, on_lost="truncate")
    envs.reset(seed=1)
    _, _, _, truncations, infos = envs.step(("kill -9 -1; sleep 5", "true"))
    assert truncations[0]
    assert infos["lost"][0]
    envs.step(("true", "true"))
    assert envs.step(("echo on",) * 2)[0] == ("on", "on")
    envs.close()


def test_what_sessions_of_an_environment_will_want_is_made_ready(
    client: megaflow.Client,
) -> None:
    kwargs = {"task": "megaflow:find-copies", "template": "box"}
    announce = functools.partial(client.prepare_env, "megaflow/Terminal-v0", env_kwargs=kwargs)
    (pool,) = announce(2)
    assert (pool.template, pool.target) == ("box", 2)
    wait_for(lambda: announce(2)[0].ready == 2, 20.0, client.pools)
    before = announce(2)[0].created
    env: Any = client.make("megaflow/Terminal-v0", env_kwargs=kwargs)
    (pool,) = announce(1)
    assert (pool.created, pool.leased, pool.ready) == (before, 1, 1)
    env.close()
    announce(0)
    with pytest.raises(FailedPrecondition, match="wants no sandbox"):
        client.prepare_env("CartPole-v1", 1)
    with pytest.raises(InvalidArgument, match="count=-1"):
        client.prepare_env("megaflow/Terminal-v0", -1, env_kwargs=kwargs)


CLIENT = """
import sys
import megaflow
env = megaflow.make("lent/Taker-v0", server=sys.argv[1], env_kwargs={"parting": sys.argv[2]})
env.reset(seed=1)
env.step("echo mine >/tmp/mine")
print("lent", flush=True)
sys.stdin.readline()
try:
    env.step("true")
except megaflow.SessionLost:
    print("lost", flush=True)
"""


def holder(server: Server, parting: Path) -> subprocess.Popen[str]:
    """A client with a sandbox."""
    script = str(server.here.script("client.py", CLIENT))
    client = server.here.start(script, server.address, str(parting))
    assert client.stdout is not None
    if client.stdout.readline() != "lent\n":
        client.kill()
        pytest.fail(f"the client said {client.communicate()}")
    return client


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_client_that_dies_or_is_suspended_loses_its_sandbox(
    server: Server, tmp_path: Path, number: signal.Signals
) -> None:
    parting = tmp_path / "said"
    client = holder(server, parting)
    assert server.leased() == 1
    client.send_signal(number)
    server.wait_for_none(LEASE + GONE_WITHIN)
    # The environment was closed first, and had its sandbox for that.
    assert parting.read_text() == "mine\n"
    client.send_signal(signal.SIGCONT)
    printed, _ = client.communicate("\n", timeout=60)
    assert printed == ("lost\n" if number == signal.SIGSTOP else "")


def test_more_than_there_may_be_is_refused_at_once(server: Server, client: megaflow.Client) -> None:
    with pytest.raises(FailedPrecondition, match=r"template box: .*pool\.max = 3"):
        client.make_vec(TAKER, num_envs=4)
    server.wait_for_none()


def test_a_vector_class_of_its_own_is_lent_none(client: megaflow.Client) -> None:
    with pytest.raises(megaflow.MegaflowError):
        client.make_vec(TAKER, num_envs=2, vectorization_mode="vector_entry_point")


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_dies_leaves_nothing_and_the_next_one_lends(kind: str) -> None:
    with place() as here:
        server = Server(here, kind, new_scope())
        try:
            user = holder(server, here.folder / "said")
            server.process.kill()
            user.kill()
            user.communicate()
            server.finish()
            if kind == "process":
                here.assert_nothing_left()
            else:
                old = server.containers()
                assert len(old) == 1
            server.start()
            if kind == "docker":
                wait_for(lambda: server.containers() == [], GONE_WITHIN, server.containers)
            user = holder(server, here.folder / "said")
            # What ends in order has its environments closed, with their sandboxes.
            server.process.send_signal(signal.SIGTERM)
            said = server.finish()
            assert "Traceback" not in said, said
            assert (here.folder / "said").read_text() == "mine\n"
            user.kill()
            user.communicate()
            here.assert_nothing_left()
            if kind == "docker":
                assert server.containers() == []
        finally:
            server.process.kill()
            server.process.communicate()
