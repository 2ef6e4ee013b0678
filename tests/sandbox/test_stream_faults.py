"""Real faults of what runs inside: each is told, in time, by every call that waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from megaflow.errors import FailedPrecondition, InvalidArgument, SessionLost
from megaflow_server.sandbox import machine
from megaflow_server.sandbox.link import ARGV
from megaflow_server.sandbox.sandbox import AsyncSandbox
from sandbox_kinds import ProgramStream

SHELLS = [
    shell
    for shell in (["/bin/sh"], ["dash"], ["bash", "--posix"], ["busybox", "ash"])
    if shutil.which(shell[0])
]


class Inside:
    """A sandbox without walls, whose processes a test can see; `close` ends what carries its mark."""

    def __init__(self, shell: list[str], environ: dict[str, str]) -> None:
        self._shell = shell
        self._mark = uuid.uuid4().hex
        self._environ = {**environ, "INSIDE": self._mark}
        self.streams: list[ProgramStream] = []
        self.sandbox = AsyncSandbox(self._open)

    async def _open(self, user: str | None) -> ProgramStream:
        self.streams.append(await ProgramStream.start([*self._shell, *ARGV[1:]], self._environ))
        return self.streams[-1]

    @property
    def top(self) -> int:
        return self.streams[0].program.pid

    def all(self) -> list[int]:
        """Every process that runs inside."""
        return [pid for pid in processes() if self._mark in content(pid, "environ")]

    def running(self, command: str) -> list[int]:
        """Those that run exactly this."""
        return [
            pid
            for pid in self.all()
            if content(pid, "cmdline") == command.replace(" ", "\0") + "\0"
        ]

    def folders(self) -> set[str]:
        """The folders that its processes have something open in."""
        return {
            target.rpartition("/")[0]
            for pid in self.all()
            for target in opened(pid)
            if target.startswith("/dev/shm/.megaflow-")
        }

    async def close(self) -> None:
        folders = self.folders()
        await self.sandbox.close()
        while left := self.all():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        for stream in self.streams:
            await stream.program.wait()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def opened(pid: int) -> list[str]:
    """What a process has open."""
    try:
        return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def content(pid: int, name: str) -> str:
    """A file of a process; nothing for one that has ended."""
    try:
        with open(f"/proc/{pid}/{name}", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    return [int(child) for child in content(pid, f"task/{pid}/children").split()]


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


@pytest.fixture(params=SHELLS, ids=" ".join)
async def any_inside(request: pytest.FixtureRequest) -> AsyncIterator[Inside]:
    inside = Inside(request.param, {"PATH": os.environ["PATH"]})
    yield inside
    await inside.close()


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    inside = Inside(["/bin/sh"], {"PATH": os.environ["PATH"]})
    yield inside
    await inside.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BEAT_EVERY", 0.2)
    monkeypatch.setattr(machine, "BEAT_WITHIN", 3.0)


async def test_commands_by_any_shell(any_inside: Inside) -> None:
    sandbox = any_inside.sandbox
    result = await sandbox.exec("echo out; echo err >&2; exit 5", env={"A": "1"}, cwd="/")
    assert (result.exit_code, result.stdout, result.stderr) == (5, b"out\n", b"err\n")
    result = await sandbox.exec("seq 100000; sleep 60", timeout=2.0, output_limit=2000)
    assert result.timed_out
    assert result.stdout.endswith(b"99999\n100000\n")
    assert (await sandbox.exec("sleep 60 & echo $!")).exit_code == 0
    many = await asyncio.gather(*(sandbox.exec(f"echo {number}") for number in range(20)))
    assert [int(one.stdout) for one in many] == list(range(20))
    content = bytes(range(256)) * 1000
    path = f"/tmp/any-{os.getpid()}"
    await sandbox.write_block(path, content, append=False)
    assert await sandbox.read_block(path, 0) == content
    os.unlink(path)
    shell = await sandbox.shell()
    await shell.run("cd /; kept=1")
    assert (await shell.run("pwd; echo $kept")).stdout == b"/\n1\n"
    assert (await shell.run("sleep 60", timeout=0.3)).timed_out
    assert (await shell.run("echo $kept")).stdout == b"1\n"
    await shell.close()


async def test_it_leaves_nothing_behind(any_inside: Inside) -> None:
    hung = asyncio.ensure_future(any_inside.sandbox.exec("sleep 345"))
    await any_inside.sandbox.exec("seq 100000")
    await any_inside.sandbox.shell()
    (folder,) = any_inside.folders()
    await any_inside.sandbox.close()
    with pytest.raises(SessionLost):
        await hung
    await until(lambda: not any_inside.all())
    assert os.path.basename(folder) not in os.listdir("/dev/shm")


@pytest.mark.long
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("victim", ["a loop", "the one that hands orders out", "all of them"])
async def test_a_process_of_ours_that_is_killed_is_a_loss(inside: Inside, victim: str) -> None:
    await inside.sandbox.exec("true")
    waiting = asyncio.ensure_future(inside.sandbox.exec("sleep 60"))
    await until(lambda: inside.running("sleep 60"))
    *loops, last = children(inside.top)
    busy = [pid for pid in loops if children(pid)]
    killed = {"a loop": busy, "all of them": [inside.top, *loops, last]}.get(victim, [last])
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(SessionLost):
        await asyncio.wait_for(waiting, 20)
    with pytest.raises(SessionLost):
        await inside.sandbox.exec("true")


async def test_a_command_that_is_killed_is_its_own_affair(inside: Inside) -> None:
    waiting = asyncio.ensure_future(inside.sandbox.exec("echo before; sleep 60; exit 1"))
    other = asyncio.ensure_future(inside.sandbox.exec("sleep 1; echo other"))
    await until(lambda: inside.running("sleep 60"))
    (sleep,) = inside.running("sleep 60")
    os.killpg(os.getpgid(sleep), signal.SIGKILL)
    result = await asyncio.wait_for(waiting, 20)
    assert (result.exit_code, result.stdout, result.timed_out) == (137, b"before\n", False)
    assert (await other).stdout == b"other\n"


async def test_a_stream_that_is_cut_is_a_loss(inside: Inside) -> None:
    await inside.sandbox.exec("true")
    waiting = asyncio.ensure_future(inside.sandbox.exec("sleep 5"))
    await asyncio.sleep(0.1)
    reader = inside.streams[0].program.stdout
    assert reader is not None
    reader.feed_eof()
    with pytest.raises(SessionLost, match="ended"):
        await asyncio.wait_for(waiting, 5)


async def test_a_flood_takes_no_memory_here(inside: Inside) -> None:
    await inside.sandbox.exec("true")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await inside.sandbox.exec("yes", timeout=1.5, output_limit=100_000)
    assert result.stdout.omitted > 1_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


async def test_a_caller_that_goes_ends_its_command(inside: Inside) -> None:
    call = asyncio.ensure_future(inside.sandbox.exec("sleep 60"))
    await until(lambda: inside.running("sleep 60"))
    call.cancel()
    await until(lambda: not inside.running("sleep 60"))
    assert (await inside.sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dd", "mkdir", "mkfifo", "mv", "rm", "wc"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    inside = Inside(["/bin/sh"], {"PATH": str(tmp_path)})
    with pytest.raises(FailedPrecondition, match="lacks setsid"):
        await inside.sandbox.exec("true")
    await inside.close()
    nothing = Inside(["/bin/true"], {})
    with pytest.raises(SessionLost):
        await nothing.sandbox.exec("true")
    await nothing.close()


async def test_users_have_names(inside: Inside) -> None:
    with pytest.raises(InvalidArgument, match="user"):
        await inside.sandbox.exec("true", user="a b")
