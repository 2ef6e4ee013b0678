"""Pools of a server as its clients see them: announced, listed; and what a run has left, reaped by its id."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import leftovers
import megaflow
from commands import SERVE, Outcome, Served, run_command
from fault_scene import wait_for
from leftovers import Place
from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow.pools import PoolInfo
from megaflow_server import marks, runs
from megaflow_server.pool.reaper import FOLDER_PREFIX
from megaflow_server.runs import STATE_VARIABLE, Run, RunFile

RUN = "0123456789abcdef"
CONFIG = """
[templates.box]
pool = { min = 1, max = 4 }
mode = "persistent"

[templates.other]
reset = ["exit 1"]
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with leftovers.place() as here:
        yield here


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[str]:
    config = place.script("megaflow.toml", CONFIG)
    listen = f"unix:{place.folder}/serve.sock"
    variables = {STATE_VARIABLE: str(place.folder / "state")}
    process = place.start(
        *SERVE, "--listen", listen, "--workers", "1", "--config", str(config), variables=variables
    )
    served = Served(process, 1)
    yield served.addresses[0]
    assert served.end() == 0
    place.assert_nothing_left()


def pool(server: str, template: str = "box") -> PoolInfo:
    with megaflow.Client(server) as client:
        (found,) = [one for one in client.pools() if one.template == template]
        return found


def test_a_trainer_announces_its_next_batch(server: str) -> None:
    wait_for(lambda: pool(server).ready == 1, 30, lambda: pool(server))
    with megaflow.Client(server) as client:
        told = client.prepare("box", 3)
        assert told.template == "box"
        assert told.ready + told.creating == 3
        wait_for(lambda: pool(server).ready == 3, 30, lambda: pool(server))
        assert client.prepare("box", 0).target == 1
        assert told.run == pool(server).run


async def test_an_asynchronous_trainer_does(server: str) -> None:
    async with megaflow.AsyncClient(server) as client:
        told = await client.prepare("other", 1)
        assert told.ready + told.creating == 1
        assert {one.template for one in await client.pools()} == {"box", "other"}


def test_what_cannot_be_prepared_is_refused_with_a_way_out(server: str) -> None:
    with megaflow.Client(server) as client:
        with pytest.raises(NotFound, match="it has box, other; did you mean 'box'"):
            client.prepare("bxo", 1)
        with pytest.raises(InvalidArgument, match="count=-1"):
            client.prepare("box", -1)
        with pytest.raises(FailedPrecondition, match="image='a'"):
            client.prepare("box", 1, image="a")
    with (
        megaflow.Client("inline") as inline,
        pytest.raises(FailedPrecondition, match="has no pools"),
    ):
        inline.prepare("box", 1)


def test_pools_are_listed(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = run_command(capsys, "pool", "ls", "--server", server)
    assert told.status == 0
    assert "box" in told.out
    assert pool(server).run in told.out
    listed = run_command(capsys, "pool", "ls", "--server", server, "--json")
    (box,) = [one for one in json.loads(listed.out) if one["template"] == "box"]
    assert box["mode"] == "persistent"
    assert box["max"] == 4


def test_the_run_of_a_server_that_is_there_is_not_reaped(
    server: str, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(place.folder / "state"))
    told = reap(capsys, pool(server).run)
    assert told.status == 2
    assert "its server is there, process" in told.err


def reap(capsys: pytest.CaptureFixture[str], run: str, *options: str) -> Outcome:
    return run_command(capsys, "reap", "--run", run, "--backend", "process", *options)


def test_a_template_that_cannot_be_had_is_no_reason_to_serve(place: Place) -> None:
    config = place.script("bad.toml", '[templates.box]\nimage = "python:3.11"')
    process = place.start(
        *SERVE, "--listen", f"unix:{place.folder}/bad.sock", "--config", str(config),
        variables={STATE_VARIABLE: str(place.folder / "bad")},
    )  # fmt: skip
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "template box: image='python:3.11': a sandbox made of processes has no image" in errors


def test_what_a_run_has_left_is_told_and_destroyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    folder = tmp_path / f"{FOLDER_PREFIX}left"
    folder.mkdir()
    RunFile(tmp_path, Run(RUN, 1, marks.RUN, str(folder))).let_go()
    told = reap(capsys, RUN, "--dry-run")
    assert told.out == f"folder {folder}: is there\n"
    assert folder.exists()
    told = reap(capsys, RUN)
    assert told.out == f"folder {folder}: destroyed\n"
    assert not folder.exists()
    assert runs.recorded(tmp_path) == []
    assert reap(capsys, RUN).out == f"run {RUN}: nothing is left of it\n"
    listed = json.loads(reap(capsys, RUN, "--json").out)
    assert listed == {"run": RUN, "instances": [], "images": [], "folder": None, "kept": []}


def test_a_run_is_named_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    told = reap(capsys, "all")
    assert told.status == 2
    assert "run='all': takes 16 hexadecimal characters" in told.err


@pytest.mark.requires("docker")
def test_containers_of_a_run_are_told_and_destroyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from docker_rig import idle

    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    run = os.urandom(8).hex()
    name = f"left-{time.monotonic_ns()}"

    async def leave() -> str:
        from megaflow_server.backends.docker.backend import DockerBackend

        backend = DockerBackend()
        instance = await backend.create(idle(tmp_path, name, labels={"run": run}))
        image = await instance.commit({"run": run})
        await backend.close()
        return image.id

    image = asyncio.run(leave())
    told = run_command(capsys, "reap", "--run", run, "--dry-run")
    assert told.out == f"instance {name}: is there\nimage {image}: is there\n"
    told = run_command(capsys, "reap", "--run", run)
    assert told.out == f"instance {name}: destroyed\nimage {image}: destroyed\n"

    assert run_command(capsys, "reap", "--run", run).out == f"run {run}: nothing is left of it\n"


@pytest.mark.requires("docker")
def test_a_run_is_not_gone_before_its_own_engine_and_scope_were_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from docker_rig import idle
    from megaflow_server.backends.docker.backend import DockerBackend
    from megaflow_server.backends.docker.options import DockerOptions

    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run, name = os.urandom(8).hex(), f"left-{time.monotonic_ns()}"
    scope = f"scope-{run}"

    async def leave() -> str:
        backend = DockerBackend(DockerOptions(scope=scope))
        await backend.create(idle(tmp_path, name, labels={"run": run}))
        await backend.close()
        assert backend.place is not None
        return backend.place

    place = asyncio.run(leave())
    RunFile(tmp_path, Run(run, 1, marks.RUN, "", (place,))).let_go()
    told = run_command(capsys, "reap", "--run", run)
    assert told.status == 1
    assert f"is left: what it has at {place!r}, where nobody looked" in told.err
    assert [one.id for one in runs.recorded(tmp_path)] == [run]
    (tmp_path / "megaflow.toml").write_text(f'[docker]\nscope = "{scope}"\n')
    told = run_command(capsys, "reap", "--run", run)
    assert (told.status, told.out) == (0, f"instance {name}: destroyed\n")
    assert runs.recorded(tmp_path) == []
