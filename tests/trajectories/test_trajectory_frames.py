"""Files cut anywhere, with flipped, lost, doubled and foreign bytes: what is whole is read, the rest is said."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument
from megaflow.trajectory.frames import (
    FRAME_BYTES,
    MAX_PAYLOAD,
    PREAMBLE_BYTES,
    Dropped,
    Frame,
    Scanner,
    frame,
    preamble,
)
from trajectory_samples import ID, classic, ends

DATA, PLACES = ends(classic())


def scan(data: bytes, piece: int = 1 << 16) -> tuple[list[int], list[Dropped]]:
    """Numbers of the records that are read, and what is dropped."""
    scanner = Scanner()
    numbers: list[int] = []
    dropped: list[Dropped] = []
    for start in range(0, len(data), piece):
        scanner.feed(data[start : start + piece])
        for found in scanner.frames():
            if isinstance(found, Frame):
                numbers.append(found.number)
            else:
                dropped.append(found)
    if tail := scanner.finish():
        dropped.append(tail)
    return numbers, dropped


def test_a_whole_file_is_read_whatever_pieces_it_comes_in() -> None:
    for piece in (1, 2, 19, 28, 1000, len(DATA)):
        assert scan(DATA, piece) == (list(range(len(PLACES) - 1)), [])


def test_a_cut_at_any_byte_leaves_what_was_whole_and_says_what_was_dropped() -> None:
    for cut in range(len(DATA)):
        whole = [place for place in PLACES if place <= cut]
        numbers, dropped = scan(DATA[:cut])
        assert numbers == list(range(max(len(whole) - 1, 0)))
        end = whole[-1] if whole else 0
        if cut == end:
            assert dropped == []
        else:
            (tail,) = dropped
            assert (tail.offset, tail.size, tail.torn) == (end, cut - end, True)


def test_a_flipped_bit_anywhere_costs_one_record_and_is_said() -> None:
    count = len(PLACES) - 1
    for at in range(len(DATA)):
        for bit in (0, 7):
            data = bytearray(DATA)
            data[at] ^= 1 << bit
            numbers, dropped = scan(bytes(data))
            hit = next(n for n, place in enumerate(PLACES) if at < place) - 1
            assert numbers == [n for n in range(count) if n != hit], at
            (gap,) = dropped
            start = PLACES[hit] if hit >= 0 else 0
            assert (gap.offset, gap.size) == (start, PLACES[hit + 1] - start)
            # Of the last record nobody can tell a torn header from a damaged one.
            assert gap.torn in ({False, True} if hit == count - 1 else {False})


@given(
    flips=st.lists(
        st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 255)), min_size=1, max_size=8
    ),
    cut=st.integers(PREAMBLE_BYTES, len(DATA)),
    piece=st.integers(1, 400),
)
def test_any_damage_costs_only_the_records_it_touches(
    flips: list[tuple[int, int]], cut: int, piece: int
) -> None:
    data = bytearray(DATA)
    for at, mask in flips:
        data[at] ^= mask
    starts = list(itertools.pairwise(PLACES))
    whole = [
        n
        for n, (start, end) in enumerate(starts)
        if end <= cut and data[start:end] == DATA[start:end]
    ]
    if not whole and data[:PREAMBLE_BYTES] != DATA[:PREAMBLE_BYTES]:
        return  # nothing is left to know it by
    numbers, dropped = scan(bytes(data[:cut]), piece)
    assert numbers == whole
    lost = sum(gap.size for gap in dropped)
    kept = sum(starts[n][1] - starts[n][0] for n in whole)
    assert lost + kept in (cut, cut - PREAMBLE_BYTES)


@given(st.integers(0, len(DATA)), st.binary(min_size=1, max_size=60))
def test_bytes_put_in_cost_at_most_the_record_they_split(at: int, foreign: bytes) -> None:
    numbers, dropped = scan(DATA[:at] + foreign + DATA[at:])
    split = [n for n in range(len(PLACES) - 1) if PLACES[n] < at < PLACES[n + 1]]
    assert numbers == [n for n in range(len(PLACES) - 1) if n not in split]
    assert dropped


@given(st.binary(max_size=400))
def test_other_bytes_are_no_trajectory(data: bytes) -> None:
    if len(data) < PREAMBLE_BYTES:
        numbers, dropped = scan(data)
        assert numbers == []
        assert sum(each.size for each in dropped) == len(data)
    else:
        with pytest.raises(InvalidArgument, match="not a trajectory"):
            scan(data)


def test_a_record_that_quotes_another_trajectory_is_one_record() -> None:
    foreign = ends(classic(), file_id=ID + 1)[0]
    data = preamble(ID) + frame(5, 0, foreign, ID) + frame(5, 1, b"x", ID)
    assert scan(data) == ([0, 1], [])
    damaged = bytearray(data)
    damaged[PREAMBLE_BYTES] ^= 1  # what it quotes is looked through for the next record
    numbers, (gap,) = scan(bytes(damaged))
    assert (numbers, gap.size) == ([1], FRAME_BYTES + len(foreign))


def test_records_that_are_not_there_and_that_come_again_are_said() -> None:
    parts = [DATA[a:b] for a, b in zip([0, *PLACES], PLACES, strict=False)]
    numbers, (gap,) = scan(b"".join(parts[:2] + parts[3:]))
    assert 1 not in numbers
    assert "1 records before record 2 are not there" in str(gap)
    numbers, (gap,) = scan(b"".join(parts[:3] + parts[2:]))
    assert numbers == list(range(len(PLACES) - 1))
    assert gap.size == len(parts[2])


def test_zeros_at_the_end_are_a_torn_tail() -> None:
    _, (tail,) = scan(DATA + bytes(4096))
    assert (tail.offset, tail.size, tail.torn) == (len(DATA), 4096, True)


def test_a_newer_version_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    import struct
    import zlib

    head = struct.pack("<8sII", DATA[:8], 2, ID)
    with pytest.raises(InvalidArgument, match=r"version 2.*upgrade"):
        scan(head + struct.pack("<I", zlib.crc32(head)))


def test_a_payload_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="as a blob"):
        frame(5, 0, bytes(MAX_PAYLOAD + 1), ID)
