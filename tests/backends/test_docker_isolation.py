"""What the profiles of the docker backend keep in, seen from inside and in the kernel's own tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from docker_rig import busybox, docker_backend, idle, run, shell
from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow_server.backends import Exit, InstanceState, Limits, Mount, Network, Profile

if TYPE_CHECKING:
    from megaflow_server.backends.docker.backend import DockerBackend

pytestmark = pytest.mark.requires("docker")

MIB = 1 << 20


@pytest.fixture
async def backend() -> AsyncIterator[DockerBackend]:
    async with docker_backend() as backend:
        yield backend


def status(pid: int | None) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_a_strict_one_has_no_capability_no_root_and_no_way_to_either(
    backend: DockerBackend, tmp_path: Path
) -> None:
    instance = await backend.create(idle(tmp_path))
    found = status(instance.pid)
    assert found["Uid"].split() == ["65534"] * 4
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "0" * 16
    }
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    inside = "cat /proc/self/status; id -u"
    _, said, _ = await run(instance, inside)
    for line in ("CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "\n65534\n"):
        assert line in said


async def test_a_standard_one_may_install_packages_and_nothing_that_reaches_the_host(
    backend: DockerBackend, tmp_path: Path
) -> None:
    instance = await backend.create(idle(tmp_path, profile="standard"))
    found = status(instance.pid)
    # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID: bits 0, 1, 3, 4, 5, 6, 7.
    assert int(found["CapBnd"], 16) == 0b1111_1011
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert (await run(instance, "touch /f && chown user /f && su user -c 'rm -f /tmp/x; id -u'"))[
        :2
    ] == (Exit(code=0), "1000\n")


ATTEMPTS = (
    "mount -t tmpfs none /tmp",
    "echo 1 >/proc/sys/kernel/sysrq",
    "mknod /tmp/disk b 254 0",
    "chroot / true",
    "hostname other",
    "unshare -Ur true",
    "date -s 2001-01-01; test $(date +%Y) = 2001",
    "cat /proc/kcore | head -c 1 | grep .",
    "echo 0 >/proc/sys/kernel/randomize_va_space",
    "ls /var/run/docker.sock",
    "wget -T 2 -q -O - http://169.254.169.254/",
    "ping -c 1 -W 1 192.0.2.1",
    "kill -9 1 && sleep 1 && kill -0 1 && false",
)


@pytest.mark.parametrize("profile", ["strict", "standard"])
async def test_escapes_fail(backend: DockerBackend, tmp_path: Path, profile: Profile) -> None:
    instance = await backend.create(idle(tmp_path, profile=profile))
    ended = {attempt: (await run(instance, attempt))[0] for attempt in ATTEMPTS}
    assert [attempt for attempt, how in ended.items() if how == Exit(code=0)] == []
    assert (await run(instance, "echo alive"))[1] == "alive\n"


async def test_it_sees_neither_the_environment_nor_the_processes_of_its_host(
    backend: DockerBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_SERVER", "secret-5e0c")
    instance = await backend.create(idle(tmp_path, environ={"OF_THE_SPEC": "1"}))
    _, said, _ = await run(instance, "env; cat /proc/*/environ; ps -o args | grep -v ps")
    assert "secret-5e0c" not in said
    assert "OF_THE_SPEC=1" in said
    assert "pytest" not in said
    assert "dockerd" not in said


async def test_a_fork_bomb_stops_at_its_limit(backend: DockerBackend, tmp_path: Path) -> None:
    instance = await backend.create(idle(tmp_path, limits=Limits(pids=32)))
    how, _, errors = await run(instance, "for i in $(seq 100); do sleep 100 & done; echo no")
    assert how.code != 0
    assert "fork" in errors
    assert (await instance.stats()).pids <= 32


async def test_a_memory_bomb_ends_and_its_instance_does_not(
    backend: DockerBackend, tmp_path: Path
) -> None:
    instance = await backend.create(idle(tmp_path, limits=Limits(memory=32 * MIB)))
    bomb = "head -c 200000000 /dev/zero | tail -c 150000000 | wc -c"
    # Nothing, where it takes the bomb so long to die that the kernel ends who was to count, too.
    assert (await run(instance, bomb))[1] in ("0\n", "")
    assert instance.state is InstanceState.RUNNING
    used = await instance.stats()
    assert used.memory <= 32 * MIB
    assert used.memory_peak is None or used.memory_peak <= 33 * MIB


async def test_a_main_process_that_outgrows_its_memory_ends_with_that_reason(
    backend: DockerBackend, tmp_path: Path
) -> None:
    greedy = "exec tail -c 150000000 /dev/zero"
    spec = shell(busybox(), tmp_path, "a", greedy)
    instance = await backend.create(idle(tmp_path, argv=spec.argv, limits=Limits(memory=32 * MIB)))
    async with asyncio.timeout(60):
        how = await instance.wait()
    assert how == Exit(signal=9, reason="it needed more memory than its 32.0 MiB")


async def test_what_writes_more_than_its_disk_is_ended_with_that_reason(
    backend: DockerBackend, tmp_path: Path
) -> None:
    instance = await backend.create(idle(tmp_path, limits=Limits(disk=8 * MIB)))
    one, _, _ = await run(instance, "head -c 20000000 /dev/zero >/tmp/large")
    assert one != Exit(code=0)
    assert int((await run(instance, "stat -c %s /tmp/large"))[1]) <= 8 * MIB
    flood = "for i in 1 2 3 4; do head -c 6000000 /dev/zero >/tmp/$i; done; sleep 100"
    ended, _ = await asyncio.gather(instance.wait(), run(instance, flood))
    assert ended == Exit(signal=9, reason="it wrote more than its 8.0 MiB of disk")


async def test_a_read_only_one_writes_to_its_temporary_folder_alone(
    backend: DockerBackend, tmp_path: Path
) -> None:
    instance = await backend.create(idle(tmp_path, profile="standard", read_only=True))
    how, said, errors = await run(instance, "echo 1 >/tmp/a; cat /tmp/a; echo 1 >/b")
    assert (how.code, said) == (1, "1\n")
    assert "Read-only" in errors


async def test_a_mount_is_seen_and_is_read_only_where_nothing_else_is_said(
    backend: DockerBackend, tmp_path: Path
) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name).chmod(0o777)
    (tmp_path / "in" / "a").write_text("1")
    mounts = (Mount(tmp_path / "in", "/in"), Mount(tmp_path / "out", "/out", read_only=False))
    instance = await backend.create(idle(tmp_path, mounts=mounts))
    _, said, errors = await run(instance, "cat /in/a; echo 2 >/out/b; echo 3 >/in/c")
    assert said == "1"
    assert "Read-only" in errors
    assert (tmp_path / "out" / "b").read_text() == "2\n"


@pytest.mark.long
async def test_a_public_one_sees_no_other_container(backend: DockerBackend, tmp_path: Path) -> None:
    network: Network = "public"
    one, other = [
        await backend.create(idle(tmp_path, name, profile="standard", network=network))
        for name in ("one", "other")
    ]
    try:
        _, addresses, _ = await run(one, "ip -4 -o addr show eth0 | awk '{print $4}'")
        address = addresses.strip().partition("/")[0]
        assert address
        serve = await one.open_stream(("nc", "-l", "-p", "8000", "-e", "cat"))
        assert (await run(other, f"echo x | nc -w 2 {address} 8000"))[0] != Exit(code=0)
        await serve.close()
    finally:
        for instance in (one, other):
            await backend.destroy(instance.id, grace=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user": "root"}, "user='root' conflicts with profile='strict'"),
        ({"user": "0:0"}, "user='0:0' conflicts"),
        ({"user": "toor"}, "user='toor' is root in image="),
        ({"network": "public"}, "network='public' conflicts with profile='strict'"),
        ({"mounts": (Mount(Path("/"), "/host"),)}, "the engine's socket is in there"),
        ({"mounts": (Mount(Path("/"), "/host"),), "profile": "standard"}, "the engine's socket"),
    ],
)
async def test_what_a_profile_forbids_is_refused_and_leaves_nothing(
    backend: DockerBackend, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        await backend.create(idle(tmp_path, **fields))
    assert await backend.list({}) == []


async def test_a_strict_one_runs_no_program_as_root(backend: DockerBackend, tmp_path: Path) -> None:
    instance = await backend.create(idle(tmp_path, user="user"))
    for user in ("root", "0", "toor", "1000:0", "-1"):
        with pytest.raises(FailedPrecondition, match="conflicts with profile='strict'"):
            await instance.open_stream(("true",), user=user)
    assert (await run(instance, "id -u", user="user"))[1] == "1000\n"
    assert (await run(instance, "id -u", user="1234:1234"))[1] == "1234\n"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"argv": ("no-such-program",)}, "argv.*no-such-program"),
        ({"argv": ("/bin",)}, "argv.*/bin"),
        ({"argv": ("/etc/passwd",)}, "argv.*/etc/passwd"),
        ({"user": "nobody-knows"}, "nobody-knows"),
        ({"log": Path("/dev/null/a.log")}, "log=.*/dev/null/a.log"),
        ({"image": None}, "image=None"),
        ({"mounts": (Mount(Path("/no/such/folder"), "/in"),)}, "/no/such/folder"),
    ],
)
async def test_what_cannot_be_started_is_an_invalid_argument_that_names_it(
    backend: DockerBackend, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        await backend.create(idle(tmp_path, **fields))
    assert await backend.list({}) == []


@pytest.mark.parametrize(
    ("argv", "user", "message"),
    [
        (("no-such-program",), None, "no-such-program"),
        (("/etc/passwd",), None, "permission denied"),
        (("true",), "nobody-knows", "nobody-knows"),
    ],
)
async def test_a_program_that_cannot_be_started_is_an_invalid_argument(
    backend: DockerBackend,
    tmp_path: Path,
    argv: tuple[str, ...],
    user: str | None,
    message: str,
) -> None:
    instance = await backend.create(idle(tmp_path, profile="standard"))
    with pytest.raises(InvalidArgument, match=message):
        await instance.open_stream(argv, user=user)
