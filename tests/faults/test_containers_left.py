"""SIGKILL of servers, workers, clients and engines: nothing of what they had is left, and pools serve on."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import docker_engine
import docker_images
import leftovers
import lent_environments
import megaflow
from busy import stretched
from commands import SERVE, Served
from docker_rig import busybox, docker_backend, engine, new_scope
from fault_points import Points, at_points
from fault_scene import wait_for
from leftovers import GONE_WITHIN, Place
from megaflow.errors import MegaflowError
from megaflow_server.pool import Pools
from megaflow_server.pool.reaper import FOLDER_PREFIX
from megaflow_server.runs import STATE_VARIABLE
from megaflow_server.templates import PoolSize, Template

pytestmark = pytest.mark.requires("docker")

RUN = "0123456789abcdef"
LEASE = 2.0


class Containers:
    """The containers, networks and volumes of a scope."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self._engine = engine()
        self._filters = {"label": f"megaflow-scope={scope}"}

    def runs(self) -> list[str]:
        """The run of each container, and of whatever else has a label of one."""
        found = [one.labels.get("megaflow.run", "") for one in self._all()]
        for others in (self._engine.networks, self._engine.volumes):
            labelled = others.list(filters={"label": "megaflow.run"})
            labels = [one.attrs.get("Labels") or {} for one in labelled]
            mine = [one for one in labels if one.get("megaflow-scope") == self.scope]
            found += [one["megaflow.run"] for one in mine]
        return found

    def remove(self) -> None:
        for one in self._all():
            one.remove(force=True)
        self._engine.close()

    def _all(self) -> list[Any]:
        return list(
            self._engine.containers.list(all=True, filters=self._filters, ignore_removed=True)
        )


@contextmanager
def containers() -> Iterator[Containers]:
    made = Containers(new_scope())
    try:
        yield made
    finally:
        made.remove()


def serve(here: Place, scope: str) -> subprocess.Popen[str]:
    here.script("lent_environments.py", Path(lent_environments.__file__).read_text())
    config = here.script(
        "megaflow.toml",
        f'[server]\nlease = {LEASE}\n[docker]\nscope = "{scope}"\n'
        f'[templates.box]\nbackend = "docker"\nimage = "{busybox()}"\npool = {{ min = 2, max = 6 }}\n',
    )
    listen = ("--listen", f"unix:{here.folder}/{time.monotonic_ns()}.sock")
    return here.start(
        *SERVE, *listen, "--workers", "1", "--import", "lent_environments", "--config", str(config),
        variables={STATE_VARIABLE: str(here.folder / "state")},
    )  # fmt: skip


def folders(here: Place) -> list[Path]:
    return [path for path in here.temporary.iterdir() if path.name.startswith(FOLDER_PREFIX)]


def wait_until_alone(left: Containers, here: Place, address: str) -> None:
    """Wait until nothing is there but the pools of a server, and nobody has anything of these."""

    def others() -> list[object]:
        (pool,) = client.pools()
        runs = [run for run in left.runs() if run != pool.run]
        return [*runs, *folders(here)[1:], *["leased"] * pool.leased]

    with megaflow.Client(address) as client:
        wait_for(lambda: not others(), LEASE + GONE_WITHIN, others)


CLIENT = f"""
import sys, time
import megaflow
env = megaflow.make("{lent_environments.TAKER}", server=sys.argv[1])
env.reset()
assert env.step("echo on")[0] == "on"
with megaflow.Client(sys.argv[1]) as client:
    client.prepare("box", int(sys.argv[2]))
    print("announced", flush=True)
    time.sleep(600)
"""


def announcing(here: Place, address: str, count: int) -> subprocess.Popen[str]:
    """A client with a session that has a sandbox, which has announced so many more."""
    client = here.start(str(here.script("client.py", CLIENT)), address, str(count))
    assert client.stdout is not None
    if client.stdout.readline() != "announced\n":
        client.kill()
        pytest.fail(f"the client said {client.communicate()}")
    return client


def strike(here: Place, server: int, client: int, chance: random.Random) -> bool:
    """SIGKILL somebody, or everybody; whether the server is among them."""
    everybody = [*here.processes()]
    victims = chance.choice([[server], everybody, chance.sample(here.workers(), 1), [client]])
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return server in victims


@pytest.mark.long
@at_points("servers, workers and clients killed", share=3)
def test_servers_workers_and_clients_killed(at: Points) -> None:
    chance = at.chance()
    with leftovers.place() as here, containers() as left:
        server = None
        for last in [False] * at.count + [True]:
            if server is None:
                server = serve(here, left.scope)
                (address,) = Served(server, 1).addresses
            # What the one before left is gone, and what the clients before had; this one's come and stay.
            wait_until_alone(left, here, address)
            if last:
                break
            user = announcing(here, address, chance.randrange(6))
            time.sleep(chance.uniform(0.0, 1.5))
            if strike(here, server.pid, user.pid, chance):
                server.communicate()
                server = None
            user.kill()
            user.communicate()
        assert server is not None
        wait_for(lambda: len(left.runs()) >= 2, 30.0, left.runs)
        server.terminate()
        server.communicate()
        assert left.runs() == []
        here.assert_nothing_left()
        assert list((here.folder / "state" / "runs").iterdir()) == []


# The SDK leaves a socket that it could not connect to the garbage collector.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")
@at_points("engines killed", share=10)
async def test_engines_killed(at: Points, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = at.chance()
    with docker_engine.running() as one:
        monkeypatch.setenv("DOCKER_HOST", one.address)
        image = docker_images.busybox()
        async with docker_backend() as backend:
            template = Template("box", "docker", image, pool=PoolSize(min=1, target=2, max=4))
            pools = Pools(lambda name: backend, run=RUN, folder=tmp_path / "pools")
            for _ in range(at.count):
                leased = await pools.lease(template, owner="me", session="s")
                await asyncio.sleep(chance.uniform(0.0, 0.5))
                await asyncio.to_thread(one.kill)
                with pytest.raises(MegaflowError):
                    await leased.sandbox.exec("sleep 30", timeout=30)
                await leased.release(dirty=False)
                await asyncio.to_thread(one.start)
                began = time.monotonic()
                again = await pools.lease(template, owner="me", session="s")
                assert (await again.sandbox.exec("echo on")).stdout == b"on\n"
                assert time.monotonic() - began < stretched(10)
                await again.release(dirty=False)
                gone = time.monotonic() + stretched(GONE_WITHIN)
                while lost := [x.id for x in await backend.list({}) if not pools.owns(x.id)]:
                    assert time.monotonic() < gone, lost
                    await asyncio.sleep(0.1)
            await pools.stop()
            assert await backend.list({}) == []
    gc.collect()  # while the warning is expected
