"""What a sandbox made of processes keeps apart."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.sandbox_proxy import SandboxProxy
from megaflow.testing.sandboxes import INTERNAL_SIGNALS
from megaflow_server.backends.process import ProcessBackend
from megaflow_server.sandbox.process import _ROOM, ProcessSandbox, Room
from sandbox_host import SandboxHost

# Of this process alone: others on the machine may test the same.
SECONDS = 100_000 + os.getpid()

pytestmark = pytest.mark.requires("namespaces")


@pytest.fixture(scope="module")
def host() -> Iterator[SandboxHost]:
    host = SandboxHost()
    yield host
    host.close()


@pytest.fixture
def sandbox(host: SandboxHost) -> Iterator[SandboxProxy]:
    sandbox = host.make(
        "process", processes=64, memory=1 << 30, file=1 << 20, environ={"GIVEN": "1"}
    )
    yield sandbox
    host.destroy(sandbox)


@pytest.mark.parametrize(
    "harm",
    [
        "touch /usr/harm",
        "touch /etc/harm",
        "touch /bin/harm",
        "mount -t tmpfs harm /mnt",
        "umount /etc",
        "mknod /tmp/harm b 8 0",
        "cat /etc/shadow | grep .",
        "kill -9 1",
        "ls /proc/1/root/",
        "echo 1 >/proc/sys/kernel/core_pattern",
        "unshare --mount --user --map-root-user mount -o remount,rw,bind /usr",
        "head -c 2000000 /dev/zero >/tmp/harm",
        "cat /dev/sda /dev/vda /dev/mem",
    ],
)
def test_harm_is_kept_out(sandbox: SandboxProxy, harm: str) -> None:
    assert sandbox.exec(harm, timeout=20).exit_code != 0
    assert sandbox.exec("echo alive").stdout == b"alive\n"


def test_the_host_is_not_seen(sandbox: SandboxProxy, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1")
    assert sandbox.exec(f"cat {tmp_path}/secret").exit_code == 1
    assert sandbox.exec(f"ls /proc/{os.getpid()}/cwd").exit_code != 0
    names = {line.split(b"=")[0] for line in sandbox.exec("env").stdout.splitlines()}
    assert names <= {b"PATH", b"HOME", b"TMPDIR", b"LANG", b"USER", b"GIVEN", b"PWD", b"OLDPWD"} | {
        b"SHLVL",
        b"_",
    }
    assert sandbox.exec("cat /proc/net/dev | tail -n +3").stdout.count(b":") == 1
    assert sandbox.exec("pwd; whoami; echo ~").stdout == b"/workspace\nsandbox\n/home/sandbox\n"


def test_no_way_to_more(sandbox: SandboxProxy) -> None:
    status = sandbox.exec("cat /proc/self/status").stdout.decode()
    held = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert held["NoNewPrivs"] == "1"
    assert {held[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
    assert "0" not in held["Uid"].split()


def test_sandboxes_do_not_see_each_other(host: SandboxHost, sandbox: SandboxProxy) -> None:
    other = host.make("process")
    other.write_file("/tmp/mine", b"1")
    other.exec("sleep 654 &")
    assert sandbox.exec("cat /tmp/mine").exit_code == 1
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep 'sleep 65[4]'"
    assert (sandbox.exec(look).exit_code, other.exec(look).exit_code) == (1, 0)
    assert other.exec("id -u").stdout != sandbox.exec("id -u").stdout
    host.destroy(other)


def test_folders_and_what_is_shown(host: SandboxHost, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").write_text("1")
    tmp_path.chmod(0o755)
    sandbox = host.make(
        "process", folders=["/app", "/logs/verifier"], read_only=[str(tmp_path / "shown")]
    )
    assert (
        sandbox.exec("pwd; touch /logs/verifier/x /app/y && ls /logs/verifier").stdout
        == b"/app\nx\n"
    )
    assert sandbox.exec(f"cat {tmp_path}/shown/file").stdout == b"1"
    assert sandbox.exec(f"touch {tmp_path}/shown/more").exit_code == 1
    with pytest.raises(FailedPrecondition, match="user"):
        sandbox.exec("true", user="root")
    host.destroy(sandbox)


async def test_what_the_server_ignores_a_command_does_not(tmp_path: Path) -> None:
    """A shell has what it starts in the background ignore some signals, and nohup one."""
    ignored = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        sandbox = await ProcessSandbox.start(ProcessBackend(), "one", tmp_path / "one", Room())
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    try:
        (said,) = (await sandbox.exec("sed -n s/SigIgn://p /proc/self/status")).stdout.split()
        assert int(said, 16) & ~INTERNAL_SIGNALS == 0
    finally:
        await sandbox.destroy()


async def test_nothing_is_left_of_one(tmp_path: Path) -> None:
    backend = ProcessBackend()
    folder = tmp_path / "one"
    sandbox = await ProcessSandbox.start(backend, "one", folder, Room(), labels={"run": "r"})
    assert [one.id for one in await backend.list({"run": "r"})] == ["one"]
    await sandbox.exec(f"setsid sleep {SECONDS} >/dev/null 2>&1 &")
    assert f"sleep\0{SECONDS}".encode() in _command_lines()
    # Deeper than Python's own calls may be.
    await sandbox.exec("mkdir -p $(printf 'd/%.0s' $(seq 1500)); echo 1 >d/f; chmod 0 d")
    await sandbox.destroy()
    assert not folder.exists()
    assert await backend.list({}) == []
    assert f"sleep\0{SECONDS}".encode() not in _command_lines()


async def test_what_a_host_does_not_allow_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "room.py"
    room.write_text(
        _ROOM.read_text().replace('_call("unshare", flags)', 'raise OSError(1, "not here")')
    )
    monkeypatch.setattr("megaflow_server.sandbox.process._ROOM", room)
    backend = ProcessBackend()
    with pytest.raises(FailedPrecondition, match=r"not here.*docker"):
        await ProcessSandbox.start(backend, "one", tmp_path / "one", Room())
    assert await backend.list({}) == []
    assert not (tmp_path / "one").exists()


def test_a_room_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="folders"):
        Room(folders=())
    with pytest.raises(InvalidArgument, match="read_only"):
        Room(read_only=["/a/../etc"])


def _command_lines() -> bytes:
    time.sleep(0.2)
    lines = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines += path.read_bytes() + b"\n"
        except OSError:
            continue
    return lines
