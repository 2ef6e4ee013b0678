from __future__ import annotations

import base64
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import DeadlineExceeded, InvalidArgument, NotFound
from megaflow.protocol import values
from megaflow.trajectory import End, Event, Start, Step, TrajectoryReader, find, png, records
from megaflow.trajectory.blobs import (
    Blob,
    blob_of,
    externalise,
    internalise,
    is_large,
    reference,
    snapshot,
)
from megaflow.trajectory.records import KINDS
from strategies.wire_values import values as wire_values
from trajectory_samples import agentic, classic, ends, write


def same(one: object, other: object) -> bool:
    left = {name: getattr(one, name) for name in records._DEFAULTS[type(one)]}
    right = {name: getattr(other, name) for name in records._DEFAULTS[type(other)]}
    return type(one) is type(other) and data_equivalence(left, right)


def test_records_of_all_kinds_come_back_as_they_were() -> None:
    seen = set()
    for record in [*agentic(), *classic()]:
        seen.add(record.kind)
        assert same(records.decode(record.code, records.encode(record)), record)
    assert seen == KINDS.keys()


@given(wire_values(), wire_values())
def test_what_an_environment_gives_comes_back_as_it_was(observation: Any, action: Any) -> None:
    step = Step(
        action=action,
        observation=observation,
        reward=np.float64(1),
        terminated=np.bool_(False),
        truncated=False,
    )
    payload = records.encode(step)
    assert records.encode(records.decode(step.code, payload)) == payload


def test_what_the_wire_lacks_is_refused_with_its_path() -> None:
    with pytest.raises(InvalidArgument, match=r"event\['data'\]\[1\]"):
        records.encode(Event(name="x", data=[1, object()]))


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (99, {}, "no record of kind 99"),
        (8, [1], "a list where a dict"),
        (8, {}, "'status' is missing"),
        (8, {"status": "x", "extra": 1}, "unknown field 'extra'"),
        (8, {1: 2}, "unknown field 1"),
    ],
)
def test_what_is_no_record_is_refused(code: int, body: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        records.decode(code, values.encode(body))


@given(st.integers(0, 20), st.binary(max_size=200))
def test_any_bytes_are_a_record_or_refused(code: int, payload: bytes) -> None:
    try:
        records.decode(code, payload)
    except InvalidArgument:
        return


def test_frames_and_large_arrays_lie_beside_and_come_back() -> None:
    random = np.random.default_rng(1)
    frame = random.integers(0, 255, (84, 84, 3), np.uint8)
    numbers = random.normal(size=5000)
    step = Step(
        action=0,
        observation={"frame": frame, "pair": (numbers, 1)},
        reward=0.0,
        terminated=False,
        truncated=False,
    )
    stored: dict[Blob, bytes] = {}
    small = externalise(step, stored.__setitem__)
    assert is_large(step)
    assert not is_large(small)
    assert sorted(blob.path.rpartition(".")[2] for blob in stored) == ["png", "value"]
    assert same(internalise(small, stored.__getitem__), step)
    assert len(records.encode(small)) < 1000
    with pytest.raises(InvalidArgument, match="does not hold what its name says"):
        internalise(small, lambda blob: stored[blob] + b"x")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frames_are_png_that_others_read(channels: int) -> None:
    pygame = pytest.importorskip("pygame")
    import io

    frame = np.random.default_rng(2).integers(0, 255, (5, 7, channels), np.uint8)
    data = png.write(frame)
    assert (png.read(data) == frame).all()
    image = pygame.image.load(io.BytesIO(data))
    shown = np.swapaxes(pygame.surfarray.array3d(image), 0, 1)
    assert (shown == (frame[..., :3] if channels > 1 else np.repeat(frame, 3, 2))).all()


@given(st.binary(max_size=60), st.integers(0, 80), st.integers(0, 255))
def test_any_bytes_are_a_frame_or_refused(junk: bytes, at: int, mask: int) -> None:
    data = bytearray(png.write(np.ones((2, 3, 3), np.uint8)))
    if at < len(data):
        data[at] ^= mask
    for each in (bytes(data), bytes(data[:at]) + junk, junk):
        try:
            png.read(each)
        except InvalidArgument:
            continue


def test_images_in_messages_lie_beside_and_come_back() -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(20_000)).decode()
    odd = "data:text/plain;base64," + "A" * 20_001  # no base64
    messages = [{"role": "user", "content": [{"image_url": {"url": url}}]}, odd, "x" * 20_000]
    event = Event(name="x", data=messages)
    stored: dict[Blob, bytes] = {}
    small = externalise(event, stored.__setitem__)
    assert list(stored.values()) == [bytes(20_000)]
    assert small.data[1:] == messages[1:]
    assert len(str(small.data[0])) < 300
    assert internalise(small, stored.__getitem__) == event


def test_a_snapshot_keeps_what_an_environment_overwrites() -> None:
    array = np.zeros(10_000)
    event = snapshot(Event(name="x", data=[array]))
    array += 1
    assert event.data[0].max() == 0


def test_a_reference_is_never_a_path_of_the_writers_choosing() -> None:
    good = blob_of(b"x", "image/jpeg")
    assert reference(good.as_value()) == good
    for digest in ("../../etc/passwd", "a" * 63, "A" * 64, "/" * 64):
        assert reference({"$blob": digest, "media_type": "image/png", "size": 1}) is None


def test_reading_says_whether_it_ended_and_what_was_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "job" / "a.mft", classic())
    reader = TrajectoryReader(path)
    assert len(list(reader)) == len(classic())
    assert (reader.name, reader.ended, reader.dropped, reader.damaged) == ("a", True, [], False)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(list(reader)) == len(classic()) - 1
    assert (reader.ended, reader.damaged, len(reader.dropped)) == (False, False, 1)
    assert find(tmp_path) == find(path) == [str(path)]
    with pytest.raises(NotFound, match="no trajectory"):
        find(tmp_path / "elsewhere")
    with pytest.raises(NotFound):
        list(TrajectoryReader(tmp_path / "none.mft"))


def test_one_kind_is_read_without_decoding_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mft", classic())
    found = list(TrajectoryReader(path).numbered(["start", "end"]))
    assert [type(record) for _, record in found] == [Start, End]
    assert [number for number, _ in found] == [0, len(classic()) - 1]


def test_an_undecodable_record_is_told_with_file_and_number(tmp_path: Path) -> None:
    from megaflow.trajectory.frames import frame

    path = tmp_path / "a.mft"
    path.write_bytes(ends([])[0] + frame(8, 0, values.encode({}), 0xF00D))
    with pytest.raises(InvalidArgument, match=r"a\.mft: record 0: end: 'status' is missing"):
        list(TrajectoryReader(path))


def test_reading_imports_nothing_that_is_not_installed_with_megaflow() -> None:
    code = (
        "import sys, megaflow.trajectory.export\n"
        "print(*{'fsspec', 'megaflow_server', 'pandas', 'pyarrow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_following_survives_a_writer_that_took_over(tmp_path: Path) -> None:
    data, places = ends(classic())
    path = tmp_path / "a.mft"
    path.write_bytes(data[: places[3] + 7] + b"torn")
    reading = TrajectoryReader(path).follow(poll=0.01, timeout=30)
    kinds = [next(reading).kind for _ in range(3)]
    # One pass more sees the torn tail; then another writer cuts it off and goes on.
    taking = threading.Timer(0.1, path.write_bytes, (data,))
    taking.start()
    kinds += [record.kind for record in reading]
    taking.join()
    assert kinds == [record.kind for record in classic()]


def test_following_gives_up_after_its_timeout(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mft", classic()[:-1])
    reader = TrajectoryReader(path).follow(poll=0.01, timeout=0.05)
    for _ in classic()[:-1]:
        next(reader)
    with pytest.raises(DeadlineExceeded, match="timeout"):
        next(reader)
