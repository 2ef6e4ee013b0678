from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaflow_server.sandbox.frames import Frame, FrameReader, ProtocolError
from megaflow_server.sandbox.scripts import as_format, quoted

SECRET = b"5ec2e7"
BLOBS = {"x": 2, "r": 1, "d": 1, "y": 0, "i": 0, "z": 0}

words = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    kind = draw(st.sampled_from(sorted(BLOBS)))
    count = BLOBS[kind]
    # Also what looks like the end of a blob, and is not.
    pieces = st.one_of(
        st.binary(max_size=40), st.sampled_from([SECRET, SECRET + b"m\n", b"x 1 0\n"])
    )
    blob = st.lists(pieces, max_size=4).map(b"".join).filter(lambda data: SECRET + b"e" not in data)
    # What is before the end must not make up one with it.
    blob = blob.filter(lambda data: (data + SECRET + b"e").find(SECRET + b"e") == len(data))
    return Frame(
        kind,
        tuple(draw(st.lists(words, max_size=4))),
        tuple(draw(st.lists(blob, min_size=count, max_size=count))),
    )


def sent(frame: Frame) -> bytes:
    line = " ".join((frame.kind, *frame.words)).encode() + b"\n"
    return line + b"".join(blob + SECRET + b"e" for blob in frame.blobs)


@given(st.lists(frames(), max_size=6), st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_frames_come_back_however_they_are_cut(told: list[Frame], cuts: list[int]) -> None:
    reader = FrameReader(SECRET, blob_most=1000)
    data = b"".join(map(sent, told))
    heard: list[Frame] = []
    at = turn = 0
    while at < len(data):
        step = cuts[turn % len(cuts)]
        heard += reader.feed(data[at : at + step])
        at, turn = at + step, turn + 1
    assert heard == told


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_whatever_comes_it_reads_or_refuses(pieces: list[bytes]) -> None:
    reader = FrameReader(SECRET, blob_most=100)
    try:
        for piece in pieces:
            list(reader.feed(piece))
    except ProtocolError:
        return


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([b"q 1\n"], "no frame's"),
        ([b"x" * 5000], "line of over"),
        ([b"d 1 ok\n", b"a" * 600, b"b" * 600], "over 1000 bytes"),
        ([b"d 1 ok\n" + b"a" * 1001 + SECRET + b"e"], "over 1000 bytes"),
    ],
)
def test_what_no_sandbox_sends_is_refused(pieces: Sequence[bytes], said: str) -> None:
    reader = FrameReader(SECRET, blob_most=1000)
    *fine, last = pieces
    for piece in fine:
        assert not list(reader.feed(piece))
    with pytest.raises(ProtocolError, match=said):
        list(reader.feed(last))


SHELLS = [
    [shell, *rest]
    for shell, *rest in (["dash"], ["bash", "--posix"], ["busybox", "ash"], ["sh"])
    if shutil.which(shell)
]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@settings(max_examples=30)
@given(data=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_a_shell_gives_exactly_what_it_was_handed(shell: list[str], data: list[bytes]) -> None:
    # Two levels, as an order is handed on: a format that gives a script that holds quoted words.
    words = [piece.replace(b"\0", b"") for piece in data]
    script = b"printf %s " + b" ".join(map(quoted, words))
    text = (
        b"printf " + as_format(b"".join(data)) + b'\neval "$(printf ' + as_format(script) + b')"\n'
    )
    done = subprocess.run([*shell, "-s"], input=text, capture_output=True, check=True)
    assert done.stdout == b"".join(data) + b"".join(words)
