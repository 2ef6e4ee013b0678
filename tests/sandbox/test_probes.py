"""What a command may try in a sandbox, and what comes of it: containers under the strict profile, and processes.

Each probe does no harm, and leaves the server that has the sandbox healthy. Sandboxes made of processes are no
security boundary; what they hold all the same is held here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from docker_rig import new_scope
from megaflow.errors import MegaflowError
from megaflow.sandbox_proxy import SandboxProxy
from sandbox_host import SandboxHost

MIB = 1 << 20
SECRET = secrets.token_hex(16)
KINDS = [
    pytest.param("container", marks=pytest.mark.requires("docker")),
    pytest.param("process", marks=pytest.mark.requires("namespaces")),
]
LIMITS: Mapping[str, Mapping[str, object]] = {
    "container": {"limits": {"pids": 64, "memory": 64 * MIB, "disk": 16 * MIB, "cpu": 1}},
    "process": {"processes": 64, "memory": 256 * MIB, "file": 16 * MIB},
}
# What a server that has two or three sandboxes takes at most.
HEALTHY = 256 * MIB


class Rig:
    """A server of one kind of sandbox."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.host = SandboxHost(OF_THE_SERVER=SECRET)
        self._made: list[SandboxProxy] = []
        self._neighbour = self.sandbox()
        self._made.clear()

    def sandbox(self, **settings: object) -> SandboxProxy:
        given = {**LIMITS[self.kind], **settings}
        if self.kind == "container":
            given = {"scope": new_scope(), "profile": "strict", **given}
        self._made.append(self.host.make(self.kind, **given))
        return self._made[-1]

    def close(self) -> None:
        self.host.destroy(self._neighbour)
        self.host.close()

    def destroy(self) -> None:
        while self._made:
            self.host.destroy(self._made.pop())

    def assert_healthy(self) -> None:
        """Another sandbox, which was there before, works; and the server has not grown."""
        assert self._neighbour.exec("echo healthy", timeout=20).stdout == b"healthy\n"
        assert resident(self.host.pid) < HEALTHY


@pytest.fixture(scope="module", params=KINDS)
def rigs(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(request.param)
    yield rig
    rig.close()


@pytest.fixture
def rig(rigs: Rig) -> Iterator[Rig]:
    yield rigs
    rigs.destroy()


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def command_lines() -> bytes:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    return b"\n".join(lines)


def test_a_fork_bomb_stops_at_its_limit(rig: Rig) -> None:
    mark = f"90{secrets.randbelow(10**6):06}"
    sandbox = rig.sandbox()

    def bomb() -> None:
        with contextlib.suppress(MegaflowError):  # it costs the sandbox itself
            sandbox.exec(f"b() {{ sleep {mark} & b | b & }}; b; sleep 60")

    thread = threading.Thread(target=bomb)
    thread.start()
    time.sleep(1.5)
    assert command_lines().count(mark.encode()) <= 64
    rig.assert_healthy()
    rig.destroy()
    thread.join()
    assert mark.encode() not in command_lines()


def test_a_memory_bomb_is_ended(rig: Rig) -> None:
    sandbox = rig.sandbox()
    said = sandbox.exec("head -c 800000000 /dev/zero | tail -c 700000000 | wc -c", timeout=30)
    assert said.stdout == b"0\n"
    assert sandbox.exec("echo alive").stdout == b"alive\n"
    rig.assert_healthy()


def test_the_disk_is_not_filled(rig: Rig) -> None:
    sandbox = rig.sandbox()
    one = sandbox.exec("head -c 40000000 /dev/zero >/tmp/large")
    assert one.exit_code != 0
    assert int(sandbox.exec("wc -c </tmp/large").stdout) <= 16 * MIB
    if rig.kind == "process":
        return  # which bounds each file, and not their number
    with pytest.raises(MegaflowError):
        _fill(sandbox, within=30)
    rig.assert_healthy()


def _fill(sandbox: SandboxProxy, within: float) -> None:
    """Write one small file after the other."""
    deadline = time.monotonic() + within
    for number in itertools.count():
        if time.monotonic() > deadline:
            return
        sandbox.exec(f"head -c 8000000 /dev/zero >/tmp/{number}")
        time.sleep(0.2)


def test_neither_the_metadata_address_nor_the_server_is_reached(rig: Rig) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        port = server.getsockname()[1]
        local.bind(f"\0probe-{SECRET}")
        local.listen()
        sandbox = rig.sandbox()
        for address in ("169.254.169.254:80", f"127.0.0.1:{port}", f"172.17.0.1:{port}"):
            reached = _connects(rig.kind, address)
            assert sandbox.exec(reached, timeout=20).exit_code != 0, address
        # Abstract Unix sockets are of a network namespace, others of a folder.
        assert SECRET.encode() not in bytes(sandbox.exec("cat /proc/net/unix").stdout)
        _, (path, _) = sandbox.__reduce__()
        assert sandbox.exec(f"ls {path}").exit_code != 0
    rig.assert_healthy()


# test_phases has a container that reaches its host.
@pytest.mark.parametrize("rigs", KINDS[1:], indirect=True)
def test_the_probe_of_the_network_finds_one_that_is_there(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sandbox = rig.sandbox(network="public")
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert sandbox.exec(_connects(rig.kind, address), timeout=20).exit_code == 0


def _connects(kind: str, address: str) -> str:
    """A command that succeeds where an address takes connections."""
    host, _, port = address.partition(":")
    if kind == "container":
        return f"nc -w 2 {host} {port} </dev/null"
    return f"timeout 2 bash -c 'exec 3<>/dev/tcp/{host}/{port}'"


def test_the_servers_environment_is_not_read(rig: Rig) -> None:
    seen = rig.sandbox().exec("env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'")
    assert b"PATH=" in bytes(seen.stdout)
    assert SECRET.encode() not in bytes(seen.stdout + seen.stderr)
    assert b"OF_THE_SERVER" not in bytes(seen.stdout)
    rig.assert_healthy()


def test_no_process_of_the_host_is_traced(rig: Rig) -> None:
    sandbox = rig.sandbox()
    pid = rig.host.pid
    for path in (f"/proc/{pid}/mem", f"/proc/{pid}/maps", f"/proc/{pid}/root"):
        assert sandbox.exec(f"head -c 1 {path} || ls {path}/").exit_code != 0
    assert str(pid).encode() not in sandbox.exec("ls /proc").stdout.split()
    if sandbox.exec("command -v perl").exit_code == 0:
        # ptrace(PTRACE_ATTACH, pid) on x86-64 and on arm64.
        number = {"x86_64": 101, "aarch64": 117}[os.uname().machine]
        attach = f"perl -e 'exit(syscall({number}, 16, {pid}, 0, 0) == 0 ? 0 : 1)'"
        assert sandbox.exec(attach).exit_code != 0
    assert _status(rig.host.pid, "TracerPid") == "0"
    rig.assert_healthy()


def _status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def test_nothing_is_mounted(rig: Rig) -> None:
    sandbox = rig.sandbox()
    before = sandbox.exec("cat /proc/mounts").stdout
    for mount in (
        "mount -t tmpfs none /tmp",
        "mount --bind / /mnt",
        "mount -o remount,rw /proc",
        "umount /proc",
        "unshare -m true",
        "mknod /tmp/disk b 254 0",
        "chroot /tmp /bin/true",
    ):
        assert sandbox.exec(mount).exit_code != 0, mount
    assert sandbox.exec("cat /proc/mounts").stdout == before
    rig.assert_healthy()


def test_nothing_is_written_outside(rig: Rig, tmp_path: Path) -> None:
    sandbox = rig.sandbox()
    tmp_path.chmod(0o777)
    name = f"probe-{SECRET[:8]}"
    for folder in ("/usr", "/etc", "/bin", "/proc/sys/kernel", "/sys", str(tmp_path)):
        assert sandbox.exec(f"echo harm >{folder}/{name}").exit_code != 0, folder
    assert sandbox.exec("echo 0 >/proc/sys/kernel/randomize_va_space").exit_code != 0
    assert sandbox.exec(f"echo mine >/tmp/{name} && cat /tmp/{name}").stdout == b"mine\n"
    assert sandbox.exec(f"ln -s {tmp_path} /tmp/way && echo harm >/tmp/way/{name}").exit_code != 0
    assert not Path("/tmp", name).exists()
    assert os.listdir(tmp_path) == []
    rig.assert_healthy()


def test_what_ignores_sigterm_is_killed_in_time(rig: Rig) -> None:
    sandbox = rig.sandbox()
    began = time.monotonic()
    result = sandbox.exec("trap '' TERM INT HUP; while :; do sleep 0.1; done", timeout=0.5)
    assert result.timed_out
    assert time.monotonic() - began < 10
    assert sandbox.exec("echo alive").stdout == b"alive\n"
    rig.assert_healthy()


def test_a_flood_is_cut_and_costs_no_memory(rig: Rig) -> None:
    sandbox = rig.sandbox()
    result = sandbox.exec("head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2", timeout=60)
    for output in (result.stdout, result.stderr):
        assert len(output) <= MIB
        assert len(output) + output.omitted == 10_000_000
    rig.assert_healthy()


def test_a_daemon_holds_nothing_open_and_ends_with_its_sandbox(rig: Rig) -> None:
    mark = f"91{secrets.randbelow(10**6):06}"
    sandbox = rig.sandbox()
    daemonises = f"(setsid sh -c 'setsid sleep {mark} & sleep {mark}' &) & echo gone"
    assert sandbox.exec(daemonises, timeout=20).stdout == b"gone\n"
    # Known by the number alone: other tests of this machine have daemons, too.
    deadline = time.monotonic() + 10
    while mark.encode() not in command_lines() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mark.encode() in command_lines()
    rig.assert_healthy()
    rig.destroy()
    assert mark.encode() not in command_lines()
