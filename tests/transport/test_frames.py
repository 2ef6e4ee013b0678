"""Frames on a byte stream: whatever pieces they come in, they come out as they went in."""

from __future__ import annotations

import struct
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow import errors
from megaflow.transport.frames import FrameReader, header

FRAMES = st.lists(st.one_of(st.binary(max_size=20), st.binary(min_size=900, max_size=3000)))


@pytest.mark.long
@given(FRAMES, st.data())
def test_frames_come_out_as_they_went_in(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(header(frame) + frame for frame in sent)
    reader = FrameReader()
    received: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        received += reader
    assert received == sent
    assert reader.next() is None


@given(FRAMES, st.integers(1, 200))
def test_what_is_cut_off_is_no_frame(sent: list[bytes], missing: int) -> None:
    stream = b"".join(header(frame) + frame for frame in [*sent, bytes(200)])
    reader = FrameReader()
    reader.feed(stream[:-missing])
    assert list(reader) == sent


@pytest.mark.parametrize("length", [11, 2**31, 2**32 - 1])
def test_a_frame_that_is_too_long_is_refused_by_its_length(length: int) -> None:
    reader = FrameReader(max_bytes=10)
    reader.feed(header(bytes(10)) + bytes(10))
    with pytest.raises(errors.InvalidArgument, match=f"of {length} bytes, where at most 10 may"):
        reader.feed(struct.pack("<I", length))
    assert list(reader) == [bytes(10)]


@pytest.mark.parametrize("piece", [1, 2, 3, 1023, 1024, 70_000])
def test_pieces_of_any_size_cost_little_memory_and_time(piece: int) -> None:
    size = 2**20
    stream = header(bytes(size)) + bytes(size)
    reader = FrameReader()
    tracemalloc.start()
    began = time.process_time()
    for start in range(0, len(stream), piece):
        reader.feed(stream[start : start + piece])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(reader) == [bytes(size)]
    assert peak < 4 * size
    assert time.process_time() - began < 30


def test_many_small_frames_at_once_cost_little_time() -> None:
    reader = FrameReader()
    began = time.process_time()
    reader.feed(struct.pack("<I", 0) * 2**18)
    assert sum(1 for _ in reader) == 2**18
    assert time.process_time() - began < 10
