"""Pools over every backend: leasing, resetting, verifying, using again, and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from megaflow.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    SessionLost,
    Unavailable,
)
from megaflow_server.backends import get_backend
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.backends.fake_instance import FakeInstance
from megaflow_server.pool import Leased, Pools, probe
from megaflow_server.pool.describe import describe_tree
from megaflow_server.removal import remove_tree
from megaflow_server.sandbox import phases
from megaflow_server.templates import PoolSize, Probe, Reaches, Template, Users
from pool_rig import RUN, Scene, scene

KINDS = ["fake", "process", pytest.param("docker", marks=pytest.mark.requires("docker"))]
WITH_ROOMS = KINDS[1:]


@pytest.fixture(params=KINDS)
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(request.param, tmp_path) as made:
        yield made


async def test_a_sandbox_is_leased_and_used_again_as_it_was(here: Scene) -> None:
    first = await here.lease()
    assert not first.warm
    assert bytes((await first.sandbox.exec("echo hello")).stdout) == b"hello\n"
    await first.release(dirty=False)
    await first.release(dirty=False)
    assert (await here.settled()).reused == 1
    second = await here.lease()
    assert second.warm
    assert second.id == first.id
    assert bytes((await second.sandbox.exec("echo again")).stdout) == b"again\n"
    with pytest.raises(SessionLost, match="closed"):
        await first.sandbox.exec("true")


async def test_a_dirty_one_is_destroyed(here: Scene) -> None:
    first = await here.lease()
    await first.release(dirty=True)
    await here.settled()
    assert (await here.lease()).id != first.id


async def test_an_ephemeral_one_is_destroyed(here: Scene) -> None:
    template = here.having(mode="ephemeral")
    first = await here.lease(template)
    await first.release(dirty=False)
    await here.settled()
    assert await here.instances() == []


async def test_a_reset_that_fails_says_what_it_said(here: Scene) -> None:
    template = here.having(reset=("echo not today >&2; exit 3",))
    await (await here.lease(template)).release(dirty=False)
    status = await here.settled()
    assert status.quarantined == 1
    assert status.fault == "'echo not today >&2; exit 3' ended with exit code 3: not today"


async def test_a_probe_of_the_templates_own(here: Scene) -> None:
    template = here.having(probe=Probe(("true", "exit 4")))
    await (await here.lease(template)).release(dirty=False)
    assert (await here.settled()).fault == "'exit 4' ended with exit code 4"


async def leave_a_file(here: Scene, leased: Leased) -> None:
    if isinstance(here.backend, FakeBackend):
        fake(here, leased).files["/tmp/left"] = b"behind"
    else:
        await leased.sandbox.exec("echo behind >/tmp/left")


async def leave_a_file_as_if_it_were_ours(here: Scene, leased: Leased) -> None:
    command = (
        "mkdir -p /tmp/.megaflow-0123456789abcdef && echo x >/tmp/.megaflow-0123456789abcdef/f"
    )
    assert (await leased.sandbox.exec(command)).exit_code == 0


async def leave_a_large_file(here: Scene, leased: Leased) -> None:
    await leased.sandbox.exec("head -c 70000000 /dev/zero >/tmp/large")


async def leave_a_process(here: Scene, leased: Leased) -> None:
    if isinstance(here.backend, FakeBackend):
        fake(here, leased).running.append("miner")
    else:
        await leased.sandbox.exec("setsid sleep 600 >/dev/null 2>&1 &")


async def change_a_variable(here: Scene, leased: Leased) -> None:
    if isinstance(here.backend, FakeBackend):
        here.environ["LD_PRELOAD"] = "/tmp/evil.so"
        return
    # Every shell from here on has it.
    shell = '#!/bin/busybox sh\\nexport LD_PRELOAD=\\nexec /bin/busybox sh "$@"\\n'
    command = f"rm /bin/sh && printf '{shell}' >/bin/sh && chmod 755 /bin/sh"
    assert (await leased.sandbox.exec(command)).exit_code == 0


async def leave_memory(here: Scene, leased: Leased) -> None:
    await leased.sandbox.exec("echo behind >/dev/shm/left")


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (leave_a_file, "files differ: /tmp/left"),
        (leave_a_file_as_if_it_were_ours, "files differ: /tmp/.megaflow-0123456789abcdef"),
        (leave_a_large_file, "files differ: /tmp/large"),
        (leave_a_process, "processes are left: "),
        (change_a_variable, "variables, mounts or shared memory differ: + export LD_PRELOAD="),
        (leave_memory, "variables, mounts or shared memory differ: + /dev/shm/left"),
    ],
)
async def test_what_a_reset_did_not_restore_is_found(
    request: pytest.FixtureRequest, here: Scene, plant: Callable[..., Any], says: str
) -> None:
    kind = request.node.callspec.params["here"]
    if plant is change_a_variable and kind == "process":
        pytest.skip("nothing in a sandbox made of processes outlives it that could set one")
    if kind == "fake" and plant in (
        leave_memory,
        leave_a_large_file,
        leave_a_file_as_if_it_were_ours,
    ):
        pytest.skip("its programs are the host's, with files and memory of their own each")
    # The shell itself is changed for that: of files, that alone would be told.
    ignored = ("/bin", "/tmp/left-not") if plant is change_a_variable else ()
    template = here.having(profile=trusted(kind), probe=Probe(ignore=ignored))
    leased = await here.lease(template)
    await plant(here, leased)
    await leased.release(dirty=False)
    status = await here.settled()
    assert status.quarantined == 1
    assert says in str(status.fault)
    here.environ.pop("LD_PRELOAD", None)
    assert (await here.lease(template)).id != leased.id


def trusted(kind: str) -> str | None:
    return "trusted" if kind == "docker" else None


def fake(here: Scene, leased: Leased) -> FakeInstance:
    assert isinstance(here.backend, FakeBackend)
    return here.backend._instances[leased.id]


async def test_what_a_reset_restores_is_used_again(here: Scene) -> None:
    if isinstance(here.backend, FakeBackend):
        pytest.skip("its files are not those that its programs see")
    template = here.having(reset=("rm -rf /tmp/left",))
    leased = await here.lease(template)
    await leave_a_file(here, leased)
    await leased.release(dirty=False)
    assert (await here.settled()).reused == 1


@pytest.mark.long
@pytest.mark.requires("docker")
async def test_a_file_of_the_image_that_is_written_back_is_what_it_was(tmp_path: Path) -> None:
    async with scene("docker", tmp_path) as here:
        back = "cp -p /etc/group /tmp/g && mv /tmp/g /etc/group"
        template = here.having(profile="trusted", reset=(back,))
        leased = await here.lease(template)
        await leased.release(dirty=False)
        assert (await here.settled()).fault is None
        again = await here.lease(template)
        await again.sandbox.exec("echo evil:x:0: >>/etc/group")
        await again.release(dirty=False)
        assert (await here.settled()).fault == "files differ: /etc/group"


@pytest.mark.long
@pytest.mark.requires("docker")
async def test_what_an_engine_writes_itself_is_no_difference(tmp_path: Path) -> None:
    network = Reaches(setup="none", agent="public", verifier="none")
    async with scene("docker", tmp_path, profile="standard", network=network) as here:
        for reused in (1, 2):
            leased = await here.lease()
            for phase in ("agent", "verifier", "agent") if reused == 1 else ("agent",):
                await leased.sandbox.enter(phase)
            await leased.release(dirty=False)
            status = await here.settled()
            assert (status.fault, status.reused) == (None, reused)


# Of the same size and time as before, a folder made anew, and what the engine keeps beside the container.
HIDDEN = """
printf EVIL | dd of=/etc/passwd conv=notrunc && touch -d @0 /etc/passwd &&
rm -r /home && mkdir -m 755 /home && touch -d @0 /home &&
echo 192.0.2.1 packages.example >>/etc/hosts && echo nameserver 192.0.2.1 >/etc/resolv.conf
"""


@pytest.mark.requires("docker")
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
async def test_what_an_engine_does_not_list_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_TOLD", 10)
    async with scene("docker", tmp_path, profile="standard") as here:
        leased = await here.lease()
        (instance,) = await here.backend.list({"run": RUN})
        assert (await leased.sandbox.exec(HIDDEN)).exit_code == 0
        root = Path(f"/proc/{instance.pid}/root")
        for path in ("root", "etc/group"):
            os.setxattr(root / path, "user.left", b"behind")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(root / "tmp" / "left"))
        await leased.release(dirty=False)
        status = await here.settled()
        files = (
            "/etc/group, /etc/hosts, /etc/passwd, /etc/resolv.conf, /home/user, /root, /tmp/left"
        )
        assert (status.quarantined, status.fault) == (1, f"files differ: {files}")


async def test_what_may_differ_is_told(here: Scene) -> None:
    if isinstance(here.backend, FakeBackend):
        pytest.skip("its files are not those that its programs see")
    template = here.having(probe=Probe(ignore=("/tmp",)))
    leased = await here.lease(template)
    await leave_a_file(here, leased)
    await leased.release(dirty=False)
    assert (await here.settled()).reused == 1


@pytest.mark.long
async def test_forty_claims_on_a_pool_of_eight_are_served_in_their_order(here: Scene) -> None:
    template = here.having(pool=PoolSize(target=8, max=8))
    order: list[int] = []

    async def session(number: int) -> None:
        leased = await here.lease(template)
        order.append(number)
        assert (await leased.sandbox.exec("echo $((6*7))")).stdout == b"42\n"
        await leased.release(dirty=False)

    await asyncio.gather(*map(session, range(40)))
    assert order == list(range(40))
    assert (await here.settled()).created <= 12


async def test_a_dead_one_is_replaced_and_the_pool_serves_on(here: Scene) -> None:
    template = here.having(pool=PoolSize(target=1, max=2))
    leased = await here.lease(template)
    await here.until(lambda one: one.ready == 1)
    for name in await here.instances():
        await here.kill(name)
    with pytest.raises((SessionLost, Unavailable, FailedPrecondition)):
        await leased.sandbox.exec("sleep 20", timeout=20)
    await leased.release(dirty=False)
    again = await here.lease(template)
    assert (await again.sandbox.exec("echo on")).stdout == b"on\n"


async def test_who_gives_up_is_not_served(here: Scene) -> None:
    template = here.having(pool=PoolSize(max=1))
    leased = await here.lease(template)
    waiting = asyncio.ensure_future(here.lease(template))
    third = asyncio.ensure_future(here.lease(template))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await leased.release(dirty=False)
    assert (await third).id == leased.id
    assert waiting.cancelled()


async def test_who_has_waited_for_too_long_is_told(here: Scene) -> None:
    template = here.having(pool=PoolSize(max=1))
    await here.lease(template)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="of at most 1 there are 1 leased"):
        await here.lease(template, deadline=asyncio.get_running_loop().time() + 0.3)
    assert time.monotonic() - began < 5


async def test_what_is_announced_is_warm_when_it_is_claimed(here: Scene) -> None:
    await here.pools.prepare(here.template, 3, owner="me")
    await here.until(lambda one: one.ready == 3)
    leased = [await here.lease() for _ in range(3)]
    assert all(one.warm for one in leased)


async def test_a_minimum_is_there_from_the_start(here: Scene, tmp_path: Path) -> None:
    template = here.having(pool=PoolSize(min=2, max=4))
    pools = Pools(
        lambda name: here.backend, run=RUN, folder=tmp_path / "more", templates={"t": template}
    )
    await pools.start()
    async with asyncio.timeout(30):
        while pools.list()[0].ready < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await pools.stop()
    assert await here.instances() == []


async def test_an_end_in_the_midst_of_it_leaves_nothing(here: Scene) -> None:
    template = here.having(pool=PoolSize(target=3, max=4))
    await here.lease(template)
    waiting = [asyncio.ensure_future(here.lease(template)) for _ in range(6)]
    await asyncio.sleep(0.05)
    await here.pools.stop()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, Leased | Unavailable)
    assert await here.instances() == []


async def test_an_instance_belongs_to_its_pool_until_it_is_gone(here: Scene) -> None:
    leased = await here.lease()
    assert here.pools.owns(leased.id)
    assert here.pools.owns(f"{leased.id}-1")  # what restoring a snapshot makes of it
    assert not here.pools.owns("s-other-1")
    assert not here.pools.owns(f"{leased.id}1")
    await leased.release(dirty=True)
    await here.settled()
    assert not here.pools.owns(leased.id)


@pytest.mark.long
@pytest.mark.requires("docker")
async def test_what_was_kept_is_never_used_again(tmp_path: Path) -> None:
    async with scene("docker", tmp_path) as here:
        kept = await here.lease()
        snapshot = await kept.sandbox.snapshot()
        restored = await here.lease()
        for leased in (kept, restored):
            await leased.release(dirty=False)
        await here.settled()
        assert here.status.reused == 1
        back = await here.lease()
        assert back.id != kept.id
        inner = await back.sandbox.snapshot()
        await back.sandbox.restore(inner)
        assert (await back.sandbox.exec("echo on")).stdout == b"on\n"
        await asyncio.sleep(0.3)
        assert here.status.leased == 1  # its old instance has ended, and it has not
        await back.release(dirty=False)
        await here.settled()
        assert not {kept.id, back.id, f"{back.id}-1"} & set(await here.instances())
        await here.backend.remove(inner)
        await here.backend.remove(snapshot)


async def test_images_of_one_template_share_its_room(tmp_path: Path) -> None:
    async with scene("fake", tmp_path) as here:
        assert isinstance(here.backend, FakeBackend)
        template = here.having(image=None, pool=PoolSize(target=2, max=2))
        first = await here.lease(template, image="a")
        await here.until(lambda one: one.ready == 1)
        # What waits for nobody makes room for who waits.
        second = await here.lease(template, image="b")
        assert len(await here.instances()) == 2
        await first.release(dirty=False)
        await second.release(dirty=False)


async def test_an_image_that_does_not_exist_fails_in_its_template(tmp_path: Path) -> None:
    async with scene("fake", tmp_path) as here:
        assert isinstance(here.backend, FakeBackend)
        here.backend.unknown.add("absent:1")
        template = here.having(image="absent:1")
        pools = Pools(
            lambda name: here.backend, run=RUN, folder=tmp_path / "more", templates={"t": template}
        )
        with pytest.raises(NotFound, match="template t: image='absent:1'"):
            await pools.start()
        await pools.stop()
        with pytest.raises(NotFound, match="absent:1"):
            await here.lease(template)
        with pytest.raises(NotFound, match="absent:1"):
            await here.pools.prepare(template, 3)


async def test_a_backend_that_does_not_exist_fails_in_its_template(tmp_path: Path) -> None:
    templates = {"t": Template("t", "dokcer")}
    pools = Pools(get_backend, run=RUN, folder=tmp_path / "pools", templates=templates)
    with pytest.raises(
        InvalidArgument, match=r"template t: backend='dokcer'.*did you mean 'docker'"
    ):
        await pools.start()
    await pools.stop()


async def test_what_keeps_failing_says_why(tmp_path: Path) -> None:
    async with scene("fake", tmp_path, pool=PoolSize(max=8)) as here:
        assert isinstance(here.backend, FakeBackend)
        here.backend.fail_next(Unavailable("the engine is busy"), times=100)
        outcomes = await asyncio.gather(*(here.lease() for _ in range(8)), return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, Unavailable)
            assert "the engine is busy" in outcome.message
        assert here.status.breaker is not None
        assert here.status.failed >= 5


async def test_what_cannot_be_destroyed_at_once_is_destroyed_later(tmp_path: Path) -> None:
    async with scene("fake", tmp_path) as here:
        assert isinstance(here.backend, FakeBackend)
        leased = await here.lease()
        here.backend.fail_next(Unavailable("the engine is gone"), verb="destroy", times=2)
        await leased.release(dirty=True)
        await here.until(lambda one: one.ending == 1)
        await here.settled()
        assert await here.instances() == []


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"image": "a"}, FailedPrecondition, "image='a': a sandbox made of processes has no image"),
        ({"profile": "strict"}, FailedPrecondition, "profile='strict'"),
        ({"user": Users(verifier="root")}, FailedPrecondition, "user='root'"),
        ({"network": Reaches("public", ("packages.example",))}, FailedPrecondition, "one network"),
    ],
)
async def test_what_processes_cannot_give_is_refused_before_anything_starts(
    tmp_path: Path, fields: dict[str, Any], error: type[MegaflowError], says: str
) -> None:
    async with scene("process", tmp_path) as here:
        with pytest.raises(error, match=says):
            await here.lease(here.having(**fields))
        assert here.pools.list() == []


async def test_hosts_are_refused_to_a_server_that_enters_no_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "can_listen", lambda: False)
    async with scene("process", tmp_path) as here:
        with pytest.raises(
            FailedPrecondition, match=r"network\.agent=\['packages.example'\]: .* root"
        ):
            await here.lease(here.having(network=Reaches(agent=("packages.example",))))
        assert await here.instances() == []


async def test_what_other_backends_cannot_give_is_refused(tmp_path: Path) -> None:
    bare = FakeBackend(capabilities=frozenset({"streams"}))
    nothing = FakeBackend()
    images = FakeBackend(capabilities=frozenset({"streams", "images"}))
    made = Pools(
        {"bare": bare, "fake": nothing, "images": images}.__getitem__, run=RUN, folder=tmp_path
    )
    for template, error, says in (
        (Template("t", "fake"), FailedPrecondition, "cannot run commands"),
        (Template("t", "bare", mode="persistent"), FailedPrecondition, "can be compared"),
        (Template("t", "images"), InvalidArgument, "needs one"),
    ):
        with pytest.raises(error, match=says):
            await made.lease(template, owner="me", session="s")
    await made.stop()


@pytest.mark.parametrize("mode", ["persistent", "auto"])
async def test_what_has_volumes_is_never_used_again(tmp_path: Path, mode: Any) -> None:
    async with scene("fake", tmp_path, mode=mode) as here:
        assert isinstance(here.backend, FakeBackend)
        here.backend.volumes["image:1"] = ("/data",)
        leased = await here.lease()
        await leased.release(dirty=False)
        status = await here.settled()
        assert await here.instances() == []
        assert (status.mode, status.reused, status.quarantined) == ("ephemeral", 0, 0)
        assert "declares /data a VOLUME" in str(status.fault)
        leased = await here.lease()
        with pytest.raises(FailedPrecondition, match="would hold what is in /data"):
            await leased.sandbox.snapshot()
        await leased.release(dirty=True)


async def test_an_image_that_was_removed_is_fetched_again(tmp_path: Path) -> None:
    async with scene("fake", tmp_path, mode="ephemeral") as here:
        assert isinstance(here.backend, FakeBackend)
        await (await here.lease()).release(dirty=False)
        await here.settled()
        here.backend.prepared.clear()
        await (await here.lease()).release(dirty=False)


def test_attributes_and_what_cannot_be_looked_at_are_differences(tmp_path: Path) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "in" / "file").write_text("1")
    (tmp_path / "in" / "link").symlink_to("file")
    fresh = describe_tree(tmp_path)
    assert fresh.keys() == {"/", "/in", "/in/deeper", "/in/file", "/in/link"}
    assert describe_tree(tmp_path) == fresh
    for path in ("", "in/deeper", "in/file"):
        os.setxattr(tmp_path / path, "user.left", b"1")
        now = describe_tree(tmp_path)
        assert [one for one in now if now[one] != fresh[one]] == [f"/{path}"]
        os.setxattr(tmp_path / path, "user.left", b"2")
        assert describe_tree(tmp_path)[f"/{path}"] not in (fresh[f"/{path}"], now[f"/{path}"])
        os.removexattr(tmp_path / path, "user.left")
    assert describe_tree(tmp_path) == fresh


def test_what_is_too_deep_to_be_looked_at_is_like_nothing(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    folder = os.open(tmp_path / "top", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    one, other = describe_tree(tmp_path), describe_tree(tmp_path)
    assert one.keys() == other.keys()
    assert one != other
    remove_tree(tmp_path / "top")


async def test_a_folder_in_memory_is_not_looked_through_from_inside() -> None:
    # A room's files lie in one then, and so does what its system folders seem to be.
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="megaflow-test-") as folder:
        async with scene("process", Path(folder), mode="auto") as here:
            began = time.monotonic()
            leased = await here.lease()
            assert time.monotonic() - began < 60  # of the 120 s that such a look may take
            await leased.sandbox.exec("echo left >/dev/shm/left")
            await leased.release(dirty=False)
            await here.settled()
            assert here.status.quarantined == 1
