from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    ResourceExhausted,
    Unavailable,
)
from megaflow.trajectory import End, Event, Start, Step, TrajectoryReader, find
from megaflow.trajectory.places import LocalFiles
from megaflow_server.trajectories import TrajectoryStore, TrajectoryWriter
from megaflow_server.trajectories.commits import Durability
from megaflow_server.trajectories.file import TrajectoryFile

CHILD = Path(__file__).parents[1] / "trajectory_writer_child.py"


def counts(path: str | Path) -> list[int]:
    return [each.data[0] for each in TrajectoryReader(path) if isinstance(each, Event)]


async def count(writer: TrajectoryWriter, *numbers: int) -> None:
    for number in numbers:
        await writer.append(Event(name="count", data=[number]))


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files may not grow beyond this: a disk that is full, as far as write(2) can tell."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("durability", ["commit", "interval", "close"])
async def test_hundreds_of_attempts_write_at_once(tmp_path: Path, durability: Durability) -> None:
    store = TrajectoryStore(str(tmp_path), durability=durability, commit_options={"linger": 0.01})

    async def attempt(name: str) -> None:
        writer = store.writer(f"job/{name}")
        await writer.append(Start(attempt_id=name))
        await asyncio.gather(*(count(writer, n) for n in range(5)))
        await writer.append(End(status="succeeded"))
        await writer.close()

    await asyncio.gather(*(attempt(f"a{n}") for n in range(300)))
    await store.close()
    found = find(tmp_path)
    assert len(found) == 300
    for path in found:
        reader = TrajectoryReader(path)
        records = list(reader)
        assert reader.ended
        assert not reader.dropped
        assert sorted(each.data[0] for each in records if isinstance(each, Event)) == [*range(5)]
        assert all(record.time is not None for record in records)


async def test_many_records_are_one_write_and_many_flushes_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    write, sync = os.pwrite, os.fdatasync

    def counted_write(descriptor: int, data: bytes, at: int) -> int:
        calls.append("write")
        return write(descriptor, data, at)

    def counted_sync(descriptor: int) -> None:
        calls.append("sync")
        sync(descriptor)

    monkeypatch.setattr(os, "pwrite", counted_write)
    monkeypatch.setattr(os, "fdatasync", counted_sync)
    store = TrajectoryStore(str(tmp_path), durability="commit")
    writer = store.writer("a")
    await count(writer, *range(100))
    await asyncio.gather(*(writer.flush() for _ in range(50)))
    assert calls == ["write", "sync"]
    await writer.close()
    await store.close()


async def test_an_idle_trajectory_is_synced_within_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = os.fdatasync
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: (real(fd), loop.call_soon_threadsafe(synced.set))[0]
    )
    store = TrajectoryStore(str(tmp_path), commit_options={"linger": 0.0, "sync_every": 0.05})
    writer = store.writer("a")
    await count(writer, 1)
    await asyncio.wait_for(synced.wait(), 30)
    await store.close()


async def test_what_flush_returned_for_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    store = TrajectoryStore(str(tmp_path))
    writer = store.writer("a")
    await writer.append(Start(attempt_id="a"))
    await writer.flush()
    following = TrajectoryReader(tmp_path / "a.mft").afollow(poll=0.005, timeout=30)
    assert isinstance(await anext(following), Start)
    for number in range(20):
        await count(writer, number)
        record = await anext(following)
        assert isinstance(record, Event)
        assert record.data == [number]
    await writer.append(End(status="x"))
    await writer.close()
    assert [type(each) async for each in following] == [End]
    await store.close()


async def test_a_flush_during_a_commit_waits_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    write = os.pwrite

    def held(descriptor: int, data: bytes, at: int) -> int:
        begun.set()
        assert go.wait(30)
        return write(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", held)
    store = TrajectoryStore(str(tmp_path), commit_options={"linger": 0.0})
    writer = store.writer("a")
    await count(writer, 1)
    first = asyncio.create_task(writer.flush())
    assert await asyncio.to_thread(begun.wait, 30)
    # What is being written has no more than the first.
    await count(writer, 2)
    second = asyncio.create_task(writer.flush())
    await asyncio.sleep(0)
    monkeypatch.setattr(os, "pwrite", write)
    found: list[int] = []
    second.add_done_callback(lambda _: found.extend(counts(tmp_path / "a.mft")))
    go.set()
    await first
    await second
    await asyncio.sleep(0)
    assert found == [1, 2]
    await writer.close()
    await store.close()


async def test_a_full_disk_is_told_loses_nothing_and_can_be_written_again(tmp_path: Path) -> None:
    store = TrajectoryStore(str(tmp_path))
    writer = store.writer("a")
    await count(writer, 0, 1, 2)
    await writer.flush()
    size = (tmp_path / "a.mft").stat().st_size
    await count(writer, 3, 4)
    with room(size + 50):  # one record and a half
        for _ in range(3):
            with pytest.raises(ResourceExhausted, match=r"a\.mft: no room") as raised:
                await writer.flush()
            assert raised.value.retry_after
        with pytest.raises(ResourceExhausted):
            await count(writer, 99)
        with pytest.raises(ResourceExhausted):
            await writer.close()
        # Not half a record is left behind.
        reader = TrajectoryReader(tmp_path / "a.mft")
        assert [each.data[0] for each in reader if isinstance(each, Event)] == [0, 1, 2]
        assert reader.dropped == []
    await writer.close()
    assert counts(tmp_path / "a.mft") == [0, 1, 2, 3, 4]
    await store.close()


async def test_one_full_file_does_not_fail_the_others(tmp_path: Path) -> None:
    store = TrajectoryStore(str(tmp_path))
    large, small = store.writer("large"), store.writer("small")
    await large.append(Event(name="x", data="y" * 10_000))
    await count(small, 1)
    with room(5000):
        told = await asyncio.gather(large.flush(), small.flush(), return_exceptions=True)
    assert [type(each) for each in told] == [ResourceExhausted, type(None)]
    assert counts(tmp_path / "small.mft") == [1]
    await large.close()
    await small.close()
    await store.close()


async def test_after_a_failed_sync_nothing_more_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    store = TrajectoryStore(str(tmp_path), durability="commit")
    writer = store.writer("a")
    await count(writer, 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(Unavailable, match="Input/output error"):
            await writer.flush()
    with pytest.raises(Unavailable, match="Input/output error"):
        await count(writer, 2)
    with pytest.raises(Unavailable):
        await writer.close()
    await store.close()


async def test_much_that_waits_makes_append_wait(tmp_path: Path) -> None:
    store = TrajectoryStore(str(tmp_path), commit_options={"linger": 60.0})
    writer = store.writer("a")
    for _ in range(40):
        await writer.append(Event(name="x", data="y" * 100_000))
        assert sum(map(len, writer.pending)) < 1_300_000
    await writer.close()
    assert len(list(TrajectoryReader(tmp_path / "a.mft"))) == 40
    await store.close()


async def test_frames_are_stored_once_and_before_the_record_that_names_them(tmp_path: Path) -> None:
    store = TrajectoryStore(str(tmp_path), durability="commit")
    frame = np.zeros((84, 84, 3), np.uint8)

    async def attempt(name: str) -> None:
        writer = store.writer(name)
        for number in range(4):
            frame[0, 0, 0] = number % 2
            await writer.append(
                Step(
                    action=number,
                    observation=frame,
                    reward=0.0,
                    terminated=False,
                    truncated=False,
                )
            )
        shot = await writer.blob(b"JPEG", "image/jpeg")
        await writer.append(Event(name="shot", data=shot.as_value()))
        await writer.close()

    await attempt("a")
    await attempt("b")
    await store.close()
    assert sum(path.endswith(".png") for path in LocalFiles().walk(str(tmp_path))) == 2
    for name in ("a", "b"):
        reader = TrajectoryReader(tmp_path / f"{name}.mft")
        *steps, shot = reader
        assert [each.observation[0, 0, 0] for each in steps if isinstance(each, Step)] == [
            0,
            1,
            0,
            1,
        ]
        assert isinstance(shot, Event)
        from megaflow.trajectory.blobs import reference

        blob = reference(shot.data)
        assert blob is not None
        assert reader.load(blob) == b"JPEG"


async def test_after_its_store_closed_a_writer_says_so(tmp_path: Path) -> None:
    store = TrajectoryStore(str(tmp_path))
    writer = store.writer("a")
    await count(writer, 1)
    await store.close()
    assert counts(tmp_path / "a.mft") == [1]
    with pytest.raises(FailedPrecondition, match="store is closed"):
        await count(writer, 2)
    await writer.close()
    assert counts(tmp_path / "a.mft") == [1]


async def test_misuse_is_refused(tmp_path: Path) -> None:
    store = TrajectoryStore(str(tmp_path))
    for name in ("", "../a", "a/../b", "/a", "a b", "a/", ".a"):
        with pytest.raises(InvalidArgument, match="name"):
            store.writer(name)
    writer = store.writer("a")
    with pytest.raises(InvalidArgument, match=r"event\['data'\]"):
        await writer.append(Event(name="x", data=object()))
    await count(writer, 1)
    await writer.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        await count(writer, 2)
    again = store.writer("a")
    await count(again, 1)
    with pytest.raises(FailedPrecondition, match="there already"):
        await again.flush()
    assert counts(tmp_path / "a.mft") == [1]
    with pytest.raises(InvalidArgument, match="spool"):
        TrajectoryStore("s3://bucket/folder")
    await store.close()


@pytest.mark.parametrize("after", [3, 11, 40])
def test_a_killed_writer_loses_nothing_that_was_written(tmp_path: Path, after: int) -> None:
    child = subprocess.Popen([sys.executable, str(CHILD), str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    written: dict[str, int] = {}
    for line in child.stdout:
        name, number = line.split()
        written[name.decode()] = int(number)
        if sum(written.values()) > after * 20:
            break
    os.kill(child.pid, signal.SIGKILL)
    for line in child.stdout:
        if line.endswith(b"\n"):
            name, number = line.split()
            written[name.decode()] = int(number)
    child.wait()
    child.stdout.close()
    assert written
    for each_name, least in written.items():
        reader = TrajectoryReader(tmp_path / f"{each_name}.mft")
        found = [each.data[0] for each in reader if isinstance(each, Event)]
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= least
        assert not reader.damaged
        assert not reader.ended


def test_a_file_with_a_torn_tail_is_gone_on_with_where_it_was_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mft"

    async def first() -> None:
        store = TrajectoryStore(str(tmp_path))
        writer = store.writer("a")
        await count(writer, 0, 1, 2)
        await writer.close()
        await store.close()

    asyncio.run(first())
    whole = path.read_bytes()
    from megaflow.trajectory import records
    from megaflow.trajectory.frames import frame

    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = counts(path) if cut >= 20 else []
        file = TrajectoryFile.resume(path)
        assert file.next_number == len(kept)
        payload = records.encode(Event(name="count", data=[7]))
        file.commit([frame(5, file.next_number, payload, file.file_id)], sync=False)
        reader = TrajectoryReader(path)
        assert [each.data[0] for each in reader if isinstance(each, Event)] == [*kept, 7]
        assert reader.dropped == []


def test_errors_say_whose_fault_it_is() -> None:
    from megaflow_server.trajectories.file import failure

    full = failure("x", OSError(28, "No space left on device"))
    assert isinstance(full, ResourceExhausted)
    other = failure("x", OSError(30, "Read-only file system"))
    assert isinstance(other, Unavailable)
    for each in (full, other):
        assert isinstance(each, MegaflowError)
        assert each.infrastructure
