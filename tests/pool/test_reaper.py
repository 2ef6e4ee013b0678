"""What runs leave, found by their ids and destroyed; what somebody means to have, left alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from commands import PATIENCE
from megaflow.errors import DeadlineExceeded, InvalidArgument, Unavailable
from megaflow_server import marks, runs
from megaflow_server.backends import Backend, InstanceSpec
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.pool import reaper
from megaflow_server.pool.reaper import Reaper
from megaflow_server.runs import Run, RunFile

OURS, DEAD, OTHERS = "a" * 16, "b" * 16, "c" * 16
EVERYTHING = frozenset({"images", "streams", "copy", "commit"})


def run_of(name: str, folder: str = "", places: tuple[str, ...] = ()) -> Run:
    return Run(name, os.getpid(), marks.RUN, folder, places)


def backend() -> FakeBackend:
    made = FakeBackend(capabilities=EVERYTHING)
    made.place = "an engine"
    return made


async def instance(there: Backend, name: str, run: str) -> None:
    await there.create(InstanceSpec(name, ("sleep",), Path("unused"), labels={"run": run}))


async def names(there: Backend) -> list[str]:
    return sorted(one.id for one in await there.list({}))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  # nobody tells when the reaper has looked
            await asyncio.sleep(0.01)


@asynccontextmanager
async def reaping(state: Path, *backends: FakeBackend, run: str = OURS) -> AsyncIterator[Reaper]:
    made = Reaper(state, run_of(run), lambda: backends)
    for one in backends:
        made.use(one)
    yield made
    await made.stop()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "PERIOD", 0.02)


async def test_what_nobody_owns_is_destroyed_and_nothing_else(tmp_path: Path) -> None:
    there = backend()
    for name, run in (("mine", OURS), ("orphan", OURS), ("others", OTHERS)):
        await instance(there, name, run)
    image, kept = [
        await (await there.list({"run": OURS}))[0].commit({"run": OURS, "n": number})
        for number in ("1", "2")
    ]
    async with reaping(tmp_path, there) as ours:
        ours.owners.append("mine".__eq__)
        ours.image_owners.append(kept.id.__eq__)
        ours.start()
        await until(lambda: ("destroy", "orphan") in there.calls)
        await until(lambda: ("remove", image.id) in there.calls)
        assert await names(there) == ["mine", "others"]
        assert [one.id for one in await there.images({})] == [kept.id]
    # At the end of the run, all of it goes.
    assert await names(there) == ["others"]
    assert await there.images({}) == []
    assert runs.recorded(tmp_path) == []


async def test_an_image_that_is_only_just_there_may_be_owned_a_moment_later(
    tmp_path: Path,
) -> None:
    there = backend()
    await instance(there, "mine", OURS)
    image = await (await there.list({}))[0].commit({"run": OURS})
    owned: set[str] = set()
    looks: list[str] = []

    def owns(name: str) -> bool:
        looks.append(name)
        return name in owned

    async with reaping(tmp_path, there) as ours:
        ours.owners.append("mine".__eq__)
        ours.image_owners.append(owns)
        ours.start()
        await until(lambda: len(looks) == 1)
        owned.add(image.id)
        await until(lambda: len(looks) > 3)
        assert await there.images({}) == [image]
        owned.clear()
        await until(lambda: ("remove", image.id) in there.calls)


async def test_what_a_run_that_is_over_left_goes_at_the_start(tmp_path: Path) -> None:
    there = backend()
    left = tmp_path / f"{reaper.FOLDER_PREFIX}left"
    left.mkdir()
    RunFile(tmp_path, run_of(DEAD, str(left), ("an engine",))).let_go()
    await instance(there, "left", DEAD)
    await instance(there, "others", OTHERS)
    async with reaping(tmp_path, there) as ours:
        ours.start()
        await until(lambda: [one.id for one in runs.recorded(tmp_path)] == [OURS])
        assert await names(there) == ["others"]
        assert not left.exists()


async def test_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    there = backend()
    held = RunFile(tmp_path, run_of(OTHERS, places=("an engine",)))
    await instance(there, "others", OTHERS)
    async with reaping(tmp_path, there) as ours:
        ours.start()
        await asyncio.sleep(0.2)
        assert await names(there) == ["others"]
        held.let_go()
        await until(lambda: ("destroy", "others") in there.calls)


async def test_what_is_elsewhere_is_left_to_who_can_see_it(tmp_path: Path) -> None:
    RunFile(tmp_path, run_of(DEAD, places=("an engine", "another one"))).let_go()
    there = backend()
    await instance(there, "left", DEAD)
    async with reaping(tmp_path, there) as ours:
        ours.start()
        await until(lambda: ("destroy", "left") in there.calls)
    assert [one.id for one in runs.recorded(tmp_path)] == [DEAD]


async def test_a_folder_of_another_name_is_not_a_servers(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    RunFile(tmp_path, run_of(DEAD, str(precious))).let_go()
    async with reaping(tmp_path, backend()) as ours:
        ours.start()
        await until(lambda: [one.id for one in runs.recorded(tmp_path)] == [OURS])
    assert precious.exists()


@pytest.mark.parametrize("error", [Unavailable("the engine is gone"), RuntimeError("a fault")])
async def test_a_reaper_looks_again_whatever_happens(tmp_path: Path, error: Exception) -> None:
    there = backend()
    await instance(there, "orphan", OURS)
    there.fail_next(error, verb="list", times=3)
    async with reaping(tmp_path, there) as ours:
        ours.start()
        await until(lambda: ("destroy", "orphan") in there.calls)


async def test_what_withstands_is_destroyed_later(tmp_path: Path) -> None:
    there = backend()
    await instance(there, "orphan", OURS)
    there.fail_next(DeadlineExceeded("it is still there"), verb="destroy", times=2)
    async with reaping(tmp_path, there) as ours:
        ours.start()
        await until(lambda: there.calls.count(("destroy", "orphan")) == 3)
    assert await names(there) == []


async def test_what_is_left_at_the_end_is_the_next_ones(tmp_path: Path) -> None:
    there = backend()
    await instance(there, "orphan", OURS)
    there.fail_next(Unavailable("the engine is gone"), verb="list", times=1)
    async with reaping(tmp_path, there):
        pass
    assert [one.id for one in runs.recorded(tmp_path)] == [OURS]
    async with reaping(tmp_path, there, run=OTHERS) as next_one:
        next_one.start()
        await until(lambda: ("destroy", "orphan") in there.calls)


async def test_a_folder_that_cannot_be_written_is_no_reason_not_to_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").touch()
    there = backend()
    await instance(there, "orphan", OURS)
    async with reaping(tmp_path, there) as ours:
        ours.start()
        await until(lambda: ("destroy", "orphan") in there.calls)
    assert f"its run is {OURS}" in caplog.text


def test_a_run_is_over_when_its_server_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from megaflow_server.runs import *; "
        f"file = RunFile(Path(sys.argv[1]), Run('{DEAD}', 1, 2, '/nowhere')); file.note('an engine'); "
        "print('held', flush=True); time.sleep(600)"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=environ
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"held\n"
        assert runs.lives(tmp_path, DEAD)
        with runs.over(tmp_path) as found:
            assert found == []
        server.kill()
        server.wait()
    assert not runs.lives(tmp_path, DEAD)
    with runs.over(tmp_path) as found:
        assert found == [Run(DEAD, 1, 2, "/nowhere", ("an engine",))]
        # Nobody else takes it meanwhile.
        with runs.over(tmp_path) as again:
            assert again == []
    runs.forget(tmp_path, found[0])
    assert runs.recorded(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "a"}', '{"id": "../../x", "pid": 1}'])
def test_what_is_no_record_is_nobodys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs" / f"{DEAD}.json"
    path.parent.mkdir()
    path.write_text(text)
    assert runs.find(tmp_path, DEAD) is None
    with runs.over(tmp_path) as found:
        assert found == []
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "a", "../../etc/passwd", "A" * 16, "a" * 17])
def test_an_id_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="16 hexadecimal"):
        runs.lives(tmp_path, name)


def test_where_the_state_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert runs.state_folder() == tmp_path / ".local" / "state" / "megaflow"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert runs.state_folder() == Path("/state/megaflow")
    monkeypatch.setenv(runs.STATE_VARIABLE, "/mine")
    assert runs.state_folder() == Path("/mine")
