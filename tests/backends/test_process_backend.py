"""What the process backend promises beyond the contract: nothing outlives its instance."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from megaflow.errors import FailedPrecondition, InvalidArgument, MegaflowError
from megaflow_server.backends import Exit, InstanceSpec, InstanceState
from megaflow_server.backends.process import ProcessBackend
from megaflow_server.marks import MARK_VARIABLE, new_mark
from process_scripts import appears, is_gone, read, script, start, until, zombies

PAUSE = "import signal; signal.pause()"

# Starts children of the given kinds; each writes its id to a file, a line each, and lives on.
FAMILY = """
import os, resource, signal, sys, time
path, *kinds = sys.argv[1:]
mark = os.environ["MEGAFLOW_INSTANCE"]

def fork(then):
    if os.fork() == 0:
        then()
        os._exit(1)

def tell():
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")

def live():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell()
    time.sleep(3600)

def live_elsewhere(environ):
    code = "import sys, os, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\\\n'); time.sleep(3600)"
    os.execve(sys.executable, [sys.executable, "-S", "-c", code, path], environ)

def group():
    os.setpgid(0, 0)
    live()

def session():
    os.setsid()
    live()

def daemon(then=live):
    os.setsid()
    fork(then)
    os._exit(0)

def daemon_with_children():
    daemon(lambda: (fork(session), live()))

def daemon_without_environment():
    daemon(lambda: live_elsewhere({}))

def inner_server():
    resource.setrlimit(10, (5, resource.getrlimit(10)[1]))
    live_elsewhere({"MEGAFLOW_INSTANCE": mark + "/inner.1"})

def daemon_of_an_inner_server():
    daemon(inner_server)

def brief_daemon():
    daemon(tell)

for kind in kinds:
    fork(globals()[kind])
"""

# The number of processes that each kind tells of.
KINDS = {
    "live": 1,
    "group": 1,
    "session": 1,
    "daemon": 1,
    "daemon_with_children": 2,
    "daemon_without_environment": 1,
    "daemon_of_an_inner_server": 1,
}


@pytest.fixture
async def backend() -> AsyncIterator[ProcessBackend]:
    backend = ProcessBackend()
    yield backend
    for instance in await backend.list({}):
        await backend.destroy(instance.id, grace=0)


class Family:
    """An instance with children, and what is known of these."""

    def __init__(self, folder: Path, *kinds: str, then: str = "signal.pause()") -> None:
        self._pids = folder / "pids"
        self._pids.touch()
        plain = script(folder, "family", FAMILY + then)
        self.spec = replace(plain, argv=(*plain.argv, str(self._pids), *kinds))
        self._count = sum(KINDS.get(kind, 1) for kind in kinds)

    async def pids(self) -> list[int]:
        await until(lambda: self._pids.read_text().count("\n") == self._count)
        return [int(line) for line in self._pids.read_text().split()]


@pytest.mark.parametrize("kind", KINDS)
async def test_children_do_not_outlive_a_killed_instance(
    backend: ProcessBackend, tmp_path: Path, kind: str
) -> None:
    family = Family(tmp_path, kind)
    instance = await backend.create(family.spec)
    pids = await family.pids()
    os.kill(instance.pid, signal.SIGKILL)
    await until(lambda: all(map(is_gone, pids)), seconds=5)
    await until(lambda: is_gone(instance.pid), seconds=5)


async def test_destroy_returns_when_all_children_are_gone(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    # Those that others left: this process adopts whatever loses its parent, once a backend was made in it.
    before = zombies()
    family = Family(tmp_path, *KINDS)
    instance = await backend.create(family.spec)
    pids = await family.pids()
    await backend.destroy(instance.id, grace=20)
    assert [pid for pid in (*pids, instance.pid) if not is_gone(pid)] == []
    assert zombies() <= before


async def test_children_do_not_outlive_an_instance_that_ends_by_itself(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    family = Family(tmp_path, "daemon", "session", then="time.sleep(0.3); raise SystemExit(4)")
    instance = await backend.create(family.spec)
    pids = await family.pids()
    assert await instance.wait() == Exit(code=4)
    await until(lambda: all(map(is_gone, pids)), seconds=5)


async def test_what_an_instance_has_started_is_seen(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    one, other = Family(ours, *KINDS), Family(theirs)
    await backend.create(one.spec)
    await backend.create(replace(other.spec, id="alone"))
    pids = await one.pids()
    assert set(backend.processes("family")) == set(pids)
    assert backend.processes("alone") == backend.processes("absent") == []
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: backend.processes("family") == [], seconds=5)


async def test_children_of_other_instances_live_on(backend: ProcessBackend, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    one, other = Family(ours, *KINDS), Family(theirs, *KINDS)
    await backend.create(one.spec)
    survivor = await backend.create(replace(other.spec, id="survivor"))
    await one.pids()
    pids = await other.pids()
    await backend.destroy("family", grace=0)
    assert [pid for pid in pids if is_gone(pid)] == []
    assert survivor.state is InstanceState.RUNNING


async def test_orphans_that_end_by_themselves_are_reaped_while_their_instance_runs(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    family = Family(tmp_path, "brief_daemon")
    instance = await backend.create(family.spec)
    pids = await family.pids()
    await until(lambda: all(map(is_gone, pids)), seconds=5)
    assert instance.state is InstanceState.RUNNING


async def test_other_children_of_the_server_are_left_alone(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    """Neither killed nor reaped, whatever they look like."""
    environ = {MARK_VARIABLE: new_mark("family").text}
    with start(PAUSE, environ=environ) as lives:
        try:
            with start("raise SystemExit(7)", environ=environ) as ended:
                await until(lambda: ended.pid in zombies())
                family = Family(tmp_path, "daemon")
                await backend.create(family.spec)
                await family.pids()
                await backend.destroy("family", grace=0)
                assert lives.poll() is None
                assert ended.wait() == 7
        finally:
            lives.kill()


async def test_what_runs_in_the_session_of_the_server_belongs_to_no_instance(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    """Such as what another thread of the server starts at the very moment an instance starts."""
    instance = await backend.create(script(tmp_path, "a", PAUSE))
    environ = {MARK_VARIABLE: instance.mark.environment()}
    with instance.mark.on_children(), start(PAUSE, environ=environ, new_session=False) as lives:
        try:
            await backend.destroy("a", grace=0)
            assert lives.poll() is None
        finally:
            lives.kill()


async def test_sigterm_goes_to_the_main_process_alone(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    code = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
def stop(number, frame):
    time.sleep(0.2)
    print("child", child.poll(), flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
signal.pause()
"""
    instance = await backend.create(script(tmp_path, "a", code))
    await appears(tmp_path / "a.log", "ready")
    await backend.destroy("a", grace=20)
    assert await instance.wait() == Exit(code=0)
    assert (tmp_path / "a.log").read_text() == "ready\nchild None\n"


async def test_the_configuration_is_on_no_command_line_and_in_no_environment(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    code = "import sys, signal; print(len(sys.stdin.read()), flush=True); signal.pause()"
    instance = await backend.create(script(tmp_path, "a", code, config=b"token-5e0c"))
    assert await appears(tmp_path / "a.log", "\n") == "10\n"
    for name in ("cmdline", "environ"):
        assert b"token-5e0c" not in read(f"/proc/{instance.pid}/{name}")


async def test_the_environment_is_what_the_spec_says_and_the_mark(
    backend: ProcessBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_SERVER", "1")
    code = "import sys; print(open('/proc/self/environ').read().split(chr(0)))"
    instance = await backend.create(script(tmp_path, "a", code, environ={"OF_THE_SPEC": "x=y"}))
    await instance.wait()
    names = {entry.partition("=")[0] for entry in eval((tmp_path / "a.log").read_text()) if entry}
    assert names == {"OF_THE_SPEC", MARK_VARIABLE}


def test_a_server_inside_an_instance_adds_to_the_path_of_marks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mark = new_mark("inner")
    monkeypatch.setenv(MARK_VARIABLE, "outer.1")
    assert mark.environment() == f"outer.1/{mark.text}"
    monkeypatch.delenv(MARK_VARIABLE)
    assert mark.environment() == mark.text


async def test_nothing_leaks_over_many_instances(backend: ProcessBackend, tmp_path: Path) -> None:
    async def cycle(number: int) -> None:
        # A configuration that is never read, an end by itself, and an end by force.
        config = bytes(1 << 20) if number % 3 == 0 else b""
        spec = script(tmp_path, "a", PAUSE if number % 2 else "", config=config)
        instance = await backend.create(replace(spec, argv=("/bin/sh", "-c", "sleep 100")))
        if number % 2:
            os.kill(instance.pid, signal.SIGKILL)
            await instance.wait()
        await backend.destroy("a", grace=0)

    await cycle(0)
    before, unreaped = os.listdir("/proc/self/fd"), zombies()
    for number in range(50):
        await cycle(number)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert zombies() <= unreaped


async def test_output_is_appended_to_the_log(backend: ProcessBackend, tmp_path: Path) -> None:
    for _ in range(2):
        code = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
        await (await backend.create(script(tmp_path / "new folder", "a", code))).wait()
        await backend.destroy("a", grace=0)
    assert (tmp_path / "new folder" / "a.log").read_text() == "out\nerr\n" * 2


async def test_an_instance_starts_in_its_directory(backend: ProcessBackend, tmp_path: Path) -> None:
    spec = script(tmp_path, "a", "import os; print(os.getcwd())")
    folder = tmp_path / "work"
    folder.mkdir()
    await (await backend.create(replace(spec, directory=folder))).wait()
    assert (tmp_path / "a.log").read_text().strip() == str(folder.resolve())


async def test_a_command_is_looked_up_on_the_path_of_the_spec(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "program-of-the-test"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 5\n")
    program.chmod(0o755)
    spec = InstanceSpec(
        "a", (program.name,), tmp_path / "a.log", environ={"PATH": str(program.parent)}
    )
    assert await (await backend.create(spec)).wait() == Exit(code=5)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"argv": ("no-such-program",)}, "argv.*no-such-program"),
        ({"argv": ("/dev/null",)}, "argv.*/dev/null"),
        ({"directory": Path("/no/such/folder")}, "directory=.*/no/such/folder"),
        ({"log": Path("/dev/null/a.log")}, "log=.*/dev/null/a.log"),
        ({"environ": {"A=B": "1"}}, "environ"),
    ],
)
async def test_what_cannot_be_started_is_an_invalid_argument_that_names_it(
    backend: ProcessBackend, tmp_path: Path, change: dict[str, object], names: str
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgument, match=names):
        await backend.create(replace(script(tmp_path, "a", PAUSE), **change))  # type: ignore[arg-type]
    assert await backend.list({}) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_starting_an_instance_leaves_the_limits_of_the_server_as_they_were(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    before = read("/proc/self/limits")
    await backend.create(script(tmp_path, "a", PAUSE))
    with pytest.raises(InvalidArgument):
        await backend.create(replace(script(tmp_path, "b", PAUSE), argv=("no-such-program",)))
    assert read("/proc/self/limits") == before


def test_another_thread_than_the_main_one_is_refused(tmp_path: Path) -> None:
    raised: list[MegaflowError] = []

    async def create() -> None:
        await ProcessBackend().create(script(tmp_path, "a", PAUSE))

    def run() -> None:
        try:
            asyncio.run(create())
        except MegaflowError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert isinstance(raised[0], FailedPrecondition)
    assert "main thread" in str(raised[0])
