"""Stores without append, by fsspec: parts, uploads that fail, and what an earlier process left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from megaflow.trajectory import End, Event, Start, Step, TrajectoryReader, find
from megaflow_server.trajectories import TrajectoryStore, TrajectoryWriter
from process_scripts import until


class Failing(MemoryFileSystem):  # type: ignore[misc]
    """A store that refuses uploads while `broken` says so."""

    protocol = "failing"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    broken = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("failing://", "memory://", 1)))

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        if type(self).broken:
            raise ConnectionError("the store is away")
        super().pipe_file(path, value, **options)


@pytest.fixture
def url() -> Iterator[str]:
    fsspec.register_implementation("failing", Failing, clobber=True)
    Failing.store.clear()
    Failing.broken = False
    yield "failing://bucket/runs"
    Failing.store.clear()


def store_of(url: str, spool: Path, **options: Any) -> TrajectoryStore:
    options = {"part_bytes": 1000, "tries": 2, "pause": 0.0, **options}
    return TrajectoryStore(url, spool=spool, commit_options={"linger": 0.0}, upload_options=options)


async def fill(writer: TrajectoryWriter, count: int, *, size: int = 300) -> None:
    for number in range(count):
        await writer.append(Event(name="count", data=[number, "x" * size]))
        await writer.flush()


def numbers(path: str) -> list[int]:
    reader = TrajectoryReader(path)
    found = [each.data[0] for each in reader if isinstance(each, Event)]
    assert not reader.dropped
    return found


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_short_trajectory_is_one_object(url: str, tmp_path: Path) -> None:
    store = store_of(url, tmp_path)
    writer = store.writer("job/a")
    await writer.append(Start(attempt_id="a"))
    await writer.append(End(status="x"))
    await writer.close()
    await store.close()
    assert list(Failing.store) == ["/bucket/runs/job/a.mft"]
    assert [type(each) for each in TrajectoryReader(store.path("job/a"))] == [Start, End]
    assert files(tmp_path) == []


async def test_a_long_one_is_parts_that_are_read_as_one(url: str, tmp_path: Path) -> None:
    store = store_of(url, tmp_path)
    writer = store.writer("job/a")
    await fill(writer, 40)
    await writer.close()
    await store.close()
    assert len(Failing.store) >= 2
    assert all(".mft.parts/" in path for path in Failing.store)
    (path,) = find(url)
    assert path.endswith("a.mft.parts")
    # By its own name, too.
    assert numbers(path) == numbers(store.path("job/a")) == list(range(40))
    assert files(tmp_path) == []


async def test_a_part_that_is_missing_is_told(url: str, tmp_path: Path) -> None:
    store = store_of(url, tmp_path)
    writer = store.writer("a")
    await fill(writer, 40)
    await writer.close()
    await store.close()
    first, *_ = sorted(Failing.store)
    del Failing.store[first]
    with pytest.raises(NotFound, match="from byte 0 to byte"):
        list(TrajectoryReader(store.path("a")))
    Failing.store.clear()
    with pytest.raises(NotFound, match="no part"):
        list(TrajectoryReader(store.path("a") + ".parts"))


async def test_it_is_read_while_parts_are_uploaded(url: str, tmp_path: Path) -> None:
    store = store_of(url, tmp_path, part_seconds=0.0)
    writer = store.writer("a")
    await fill(writer, 10)
    reading = TrajectoryReader(f"{store.path('a')}.parts").afollow(poll=0.01, timeout=30)
    first = await anext(reading)
    assert isinstance(first, Event)
    await fill(writer, 10)
    await writer.append(End(status="x"))
    await writer.close()
    rest = [each async for each in reading]
    assert len(rest) == 20
    await store.close()


async def test_frames_are_there_before_what_names_them(url: str, tmp_path: Path) -> None:
    store = store_of(url, tmp_path)
    for name in ("job/a", "job/b"):
        writer = store.writer(name)
        for number in range(3):
            frame = np.full((84, 84, 3), number, np.uint8)
            await writer.append(
                Step(
                    action=0,
                    observation=frame,
                    reward=0.0,
                    terminated=False,
                    truncated=False,
                )
            )
        await writer.close()
        steps = list(TrajectoryReader(store.path(name)))
        assert [each.observation.max() for each in steps if isinstance(each, Step)] == [0, 1, 2]
    await store.close()
    assert len([path for path in Failing.store if path.endswith(".png")]) == 3
    assert files(tmp_path) == []


async def test_a_blob_is_uploaded_though_a_part_is_while_it_is_stored(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    rename = Path.rename

    def held(draft: Path, target: Path) -> Path:
        begun.set()
        assert go.wait(30)
        return rename(draft, target)

    monkeypatch.setattr(Path, "rename", held)
    store = store_of(url, tmp_path, part_bytes=1)
    writer = store.writer("a")
    storing = asyncio.create_task(writer.blob(b"JPEG", "image/jpeg"))
    assert await asyncio.to_thread(begun.wait, 30)
    await fill(writer, 1)
    await until(lambda: any("/a.mft.parts/" in path for path in Failing.store))
    go.set()
    blob = await storing
    await writer.close()
    await store.close()
    assert TrajectoryReader(store.path("a")).load(blob) == b"JPEG"
    assert [path for path in files(tmp_path) if path.suffix == ".jpg"] == []


async def test_an_upload_that_fails_is_told_and_nothing_is_lost(url: str, tmp_path: Path) -> None:
    store = store_of(url, tmp_path)
    writer = store.writer("job/a")
    await fill(writer, 20)
    Failing.broken = True
    await fill(writer, 20)  # the disk here takes them all the same
    with pytest.raises(
        Unavailable, match=r"store is away.*tried 2 times.*kept at .*a\.mft"
    ) as told:
        await writer.close()
    assert told.value.infrastructure
    kept = tmp_path / "job" / "a.mft"
    assert numbers(str(kept)) == [*range(20), *range(20)]
    Failing.broken = False
    await writer.close()
    await store.close()
    assert numbers(store.path("job/a")) == [*range(20), *range(20)]
    assert not kept.exists()


async def test_what_an_earlier_process_left_is_uploaded(url: str, tmp_path: Path) -> None:
    store = store_of(url, tmp_path)
    writer = store.writer("job/a")
    await fill(writer, 20)
    await writer.append(
        Step(
            action=0,
            observation=np.ones(10_000),
            reward=0.0,
            terminated=False,
            truncated=False,
        )
    )
    await writer.flush()
    await store.close()  # and the process is no more
    kept = tmp_path / "job" / "a.mft"
    kept.write_bytes(kept.read_bytes() + b"half a record")
    assert await store_of(url, tmp_path).recover() == {"job/a": None}
    records = list(TrajectoryReader(store.path("job/a")))
    assert len(records) == 21
    assert isinstance(records[-1], Step)
    assert records[-1].observation.sum() == 10_000
    assert files(tmp_path) == []
    assert await TrajectoryStore(str(tmp_path)).recover() == {}


async def test_what_cannot_be_uploaded_again_is_told_by_name(url: str, tmp_path: Path) -> None:
    store = store_of(url, tmp_path)
    await fill(store.writer("a"), 1)
    await store.close()
    Failing.broken = True
    told = await store_of(url, tmp_path).recover()
    assert isinstance(told["a"], Unavailable)
    assert (tmp_path / "a.mft").exists()


def test_a_place_that_nothing_reaches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="no place that fsspec knows"):
        find("nowhere://x")
    import sys

    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(FailedPrecondition, match=r"megaflow\[storage\]"):
        find("s3://bucket")


def test_a_file_url_is_the_folder(tmp_path: Path) -> None:
    assert TrajectoryStore(f"file://{tmp_path}").path("a") == f"file://{tmp_path}/a.mft"
