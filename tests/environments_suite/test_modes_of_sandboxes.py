"""How a task's sandboxes are used: as it says, and as their template says only where it leaves that open."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

import megaflow
from docker_rig import new_scope
from fault_scene import wait_for
from leftovers import place
from lending_server import Server
from lent_environments import TAKER
from megaflow.errors import InvalidArgument
from megaflow.gateway_connection import OnBehalf, on_behalf
from megaflow.pools import PoolInfo

pytestmark = pytest.mark.requires("namespaces")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with place() as here:
        one = Server(here, "process", new_scope())
        yield one
        one.process.send_signal(signal.SIGTERM)
        said = one.finish()
        assert "Traceback" not in said, said
        here.assert_nothing_left()


@pytest.fixture
def client(server: Server) -> Iterator[megaflow.Client]:
    with megaflow.Client(server.address) as client:
        yield client
    server.wait_for_none()


def session(client: megaflow.Client, mode: str) -> None:
    """One session of a task with this mode, which leaves nothing behind."""

    def opened() -> None:
        on_behalf.set(OnBehalf(mode=mode))
        env: Any = client.make(TAKER)
        env.reset(seed=1)
        env.step("true")
        env.close()

    copy_context().run(opened)


def pools(client: megaflow.Client) -> list[PoolInfo]:
    """Those that have made sandboxes, once none is being reset."""
    wait_for(lambda: not any(one.resetting for one in client.pools()), 10.0, client.pools)
    return [one for one in client.pools() if one.created]


@pytest.mark.long
def test_a_tasks_own_mode_wins(server: Server, client: megaflow.Client) -> None:
    for _ in range(3):
        session(client, "ephemeral")
        server.wait_for_none()
    (own,) = pools(client)
    assert (own.mode, own.reused) == ("ephemeral", 0)
    assert own.created >= 3
    for _ in range(3):
        session(client, "persistent")
        server.wait_for_none()
    (kept,) = [one for one in pools(client) if one.mode == "persistent"]
    assert kept.reused >= 1
    session(client, "auto")  # as the template says, and so from its pool
    server.wait_for_none()
    assert len(pools(client)) == 3


def test_another_is_refused(client: megaflow.Client) -> None:
    with pytest.raises(InvalidArgument, match=r"mode='eternal': choose among ephemeral"):
        session(client, "eternal")
