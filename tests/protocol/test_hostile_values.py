"""Decoding what nobody honest sent: one kind of error, within the promised memory and time."""

from __future__ import annotations

import gc
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.bits import mutated
from megaflow.errors import InvalidArgument
from megaflow.protocol import _budget
from megaflow.protocol.values import decode, encode
from strategies.wire_values import generators, values

MIB = 1 << 20
# Of most hostile messages: enough for what each byte costs to outweigh what any message may take.
SIZE = MIB // 2


def ext(code: int, payload: bytes = b"") -> bytes:
    return bytes(msgpack.packb(msgpack.ExtType(code, payload)))


def array32(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


def settle(data: bytes) -> Any:
    """Decodes, or is refused; any other exception fails the test."""
    try:
        return decode(data)
    except InvalidArgument as error:
        return error


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_decode(data: bytes) -> None:
    settle(data)


@given(values() | generators(), st.randoms(use_true_random=False))
def test_mutations_are_refused_or_decode(value: Any, chance: random.Random) -> None:
    decoded = settle(mutated(encode(value), chance))
    if not isinstance(decoded, InvalidArgument):
        settle(encode(decoded))


@given(values())
def test_no_prefix_and_no_extension_of_a_value_is_one(value: Any) -> None:
    data = encode(value)
    for cut in range(len(data)):
        assert isinstance(settle(data[:cut]), InvalidArgument)
    assert isinstance(settle(data + b"\xc0"), InvalidArgument)


def header(dtype: bytes, *shape: int, ndim: int | None = None) -> bytes:
    count = len(shape) if ndim is None else ndim
    return bytes([len(dtype)]) + dtype + bytes([count]) + struct.pack(f"<{len(shape)}I", *shape)


_MALFORMED = {
    "nothing": b"",
    "unknown extension": ext(99, b"abc"),
    "timestamp": bytes(msgpack.packb(msgpack.Timestamp(1))),
    "timestamp of 12 bytes": bytes(msgpack.packb([msgpack.Timestamp(2**40, 5)])),
    "never used": b"\xc1",
    "invalid UTF-8": b"\xa2\xff\xfe",
    "the same key twice": b"\x82\xa1a\x01\xa1a\x02",
    "a key of bytes": b"\x81\xc4\x01a\x01",
    "a key of int": b"\x81\x01\x01",
    "a key that is a list": b"\x81\x90\x01",
    "a key that is an extension": b"\x81" + ext(3, b"a") + b"\x01",
    "marker in second place": b"\x92\x01" + ext(16),
    "marker in a map": b"\x81\xa1a" + ext(16),
    "marker in a tuple": b"\x92" + ext(16) + ext(16),
    "marker with a payload": b"\x91" + ext(16, b"a"),
    "map without a value": b"\x92" + ext(17) + b"\x01",
    "map with a key twice": b"\x95" + ext(17) + b"\x01\x02\x01\x03",
    "map with keys 1 and True": b"\x95" + ext(17) + b"\x01\x02\xc3\x03",
    "map with a key of list": b"\x93" + ext(17) + b"\x90\x02",
    "graph of two": b"\x93" + ext(18) + b"\xc0\xc0",
    "generator of nothing": b"\x91" + ext(19),
    "generator of int": b"\x92" + ext(19) + b"\x01",
    "generator by another name": b"\x92" + ext(19) + b"\x81\xadbit_generator\xa6random",
    "objects without shape": b"\x91" + ext(20),
    "objects of a lying shape": b"\x93" + ext(20) + b"\x91\x02\xc0",
    "objects of a negative shape": b"\x93" + ext(20) + b"\x92\xff\xff\xc0",
    "objects of a huge empty shape": b"\x92" + ext(20) + b"\x93\x00" + b"\xce\xff\xff\xff\xff" * 2,
    "objects of a bool shape": b"\x93" + ext(20) + b"\x91\xc3\xc0",
    "padding alone": ext(4, b"\0"),
    "padding inside": b"\x91" + ext(4, b"\0\0\0"),
    "padding of something": b"\xc7\x01\x04a\xc0",
    "padding twice": b"\xc7\x01\x04\0\xc7\x01\x04\0\xc0",
    "array of nothing": ext(1, b""),
    "array without shape": ext(1, b"\x03<f4"),
    "array of half a shape": ext(1, b"\x03<f4\x02\x01\0\0\0"),
    "array too short": ext(1, header(b"<f4", 2) + b"1234"),
    "array too long": ext(1, header(b"<f4", 2) + b"123456789"),
    "array of 33 dimensions": ext(1, header(b"|u1", *[1] * 33) + b"1"),
    "array whose size overflows": ext(1, header(b"<f8", *[1 << 31] * 3)),
    "array of empty giants": ext(1, header(b"<f8", 0, *[(1 << 32) - 1] * 4)),
    "array of objects": ext(1, header(b"|O", 1) + b"12345678"),
    "array of void": ext(1, header(b"|V4", 1) + b"1234"),
    "array of records": ext(1, header(b"f4,f4", 1) + b"12345678"),
    "array of dates": ext(1, header(b"<M8[s]", 1) + b"12345678"),
    "array of long doubles": ext(1, header(b"<f16", 1) + bytes(16)),
    "array of no width": ext(1, header(b"<U0", 1)),
    "array of another bool": ext(1, header(b"|b1", 2) + b"\1\2"),
    "array beyond Unicode": ext(1, header(b"<U1", 1) + b"\0\0\x11\0"),
    "scalar of a shape": ext(2, header(b"<f4", 1) + b"1234"),
    "scalar too short": ext(2, header(b"<f4") + b"123"),
    "scalar of the other order": ext(2, header(b">f4") + b"1234"),
    "scalar of text of a width": ext(2, header(b"<U1") + b"a\0\0\0"),
    "scalar of invalid UTF-8": ext(2, header(b"U") + b"\xff"),
    "scalar of another bool": ext(2, header(b"|b1") + b"\2"),
    "array cut off": b"\xc9\xff\xff\xff\xff\x01" + b"a" * 200,
}


@pytest.mark.parametrize("data", _MALFORMED.values(), ids=_MALFORMED.keys())
@pytest.mark.parametrize(
    "around",
    [lambda d: d, lambda d: b"\x91" + d, lambda d: b"\x92" + d + b"\xda\x03\xe8" + b"x" * 1000],
    ids=["bare", "nested", "long"],
)
def test_malformed_values_are_refused(data: bytes, around: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidArgument, match=r"^reply: not a value of the wire: ."):
        decode(around(data), path="reply")


def test_padding_may_precede_a_value() -> None:
    assert decode(b"\xc7\x03\x04\0\0\0\xa1a") == "a"


@pytest.mark.parametrize(
    "cls", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64]
)
def test_a_generator_takes_no_index_beyond_its_buffer(cls: Any) -> None:
    """numpy does not check these, and would read foreign memory."""
    state = cls(1).state
    places = [(state, "has_uint32"), (state, "buffer_pos"), (state["state"], "pos")]
    for part, key in places:
        if key not in part:
            continue
        good = part[key]
        for bad in (-1, 1 << 20, 1 << 40, None, 1.5):
            part[key] = bad
            with pytest.raises(InvalidArgument):
                decode(encode_marked(19, state))
        part[key] = good
    assert decode(encode_marked(19, state)).bit_generator.state["bit_generator"] == cls.__name__


def encode_marked(code: int, *items: Any) -> bytes:
    return bytes([0x91 + len(items)]) + ext(code) + b"".join(map(encode, items))


# ---------------------------------------------------------------- memory and time


def dense(token: bytes, size: int = SIZE) -> bytes:
    """As many of one token as fit, in one array."""
    count = size // len(token)
    assert count > 0
    return array32(count) + token * count


def distinct(make: Callable[[int], bytes], size: int = SIZE) -> bytes:
    tokens: list[bytes] = []
    length = 0
    while length < size:
        tokens.append(make(len(tokens)))
        length += len(tokens[-1])
    return array32(len(tokens)) + b"".join(tokens)


def map32(pairs: int) -> bytes:
    return b"\xdf" + struct.pack(">I", pairs)


# Multiples of CPython's modulus for hashes of numbers: all hash to 0.
_COLLIDING = b"".join(
    ext(3, (k * (2**61 - 1)).to_bytes(16, "little")) + b"\xc0" for k in range(10, 40_010)
)

_HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty arrays in an array": lambda: dense(b"\x90"),
    "empty maps": lambda: dense(b"\x80"),
    "maps of one": lambda: dense(b"\x81\xa0\xc0"),
    "nil": lambda: dense(b"\xc0"),
    "negative ints": lambda: dense(b"\xe0"),
    "uint16": lambda: dense(b"\xcd\xff\xff"),
    "floats": lambda: dense(b"\xca\0\0\0\0"),
    "short strings": lambda: dense(b"\xa2ab"),
    "strings that widen": lambda: dense(b"\xd9\xff" + b"a" * 251 + "😀".encode()),
    "one string that widens": lambda: dense(
        b"\xdb" + struct.pack(">I", SIZE // 2) + "😀".encode() + b"a" * (SIZE // 2 - 4)
    ),
    "short bytes": lambda: dense(b"\xc4\x02ab"),
    "one map of one key": lambda: map32(SIZE) + b"\xa0\xc0" * SIZE,
    "one map of many keys": lambda: (
        map32(150_000) + b"".join(b"\xa7%07d\xc0" % i for i in range(150_000))
    ),
    "empty tuples": lambda: dense(b"\x91" + ext(16)),
    "one long tuple": lambda: array32(SIZE + 1) + ext(16) + b"\xc0" * SIZE,
    "one long map": lambda: (
        array32(2 * 150_000 + 1)
        + ext(17)
        + b"".join(b"\xce%s\xc0" % struct.pack(">I", i + 70_000) for i in range(150_000))
    ),
    "one map of colliding keys": lambda: array32(80_001) + ext(17) + _COLLIDING,
    "one object array": lambda: (
        array32(SIZE + 2) + ext(20) + b"\x91\xce\0\x08\0\0" + b"\xc0" * SIZE
    ),
    "empty object arrays": lambda: dense(b"\x92" + ext(20) + b"\x91\0"),
    "arrays of nothing": lambda: dense(ext(1, header(b"|u1", 0))),
    "arrays, each of another shape": lambda: distinct(lambda i: ext(1, header(b"|u1", 0, i))),
    "scalars": lambda: dense(ext(2, header(b"|u1") + b"1")),
    "texts": lambda: dense(ext(2, header(b"U") + b"ab")),
    "ints in extensions": lambda: dense(ext(3, b"a")),
    "graphs": lambda: dense(b"\x94" + ext(18) + b"\xc0\xc0\xc0"),
    "generators of nothing": lambda: dense(b"\x92" + ext(19) + b"\xc0"),
    "generators": lambda: dense(encode(np.random.default_rng(1))),
    "deep": lambda: b"\x91" * SIZE,
    "deep maps": lambda: b"\x81\xa0" * SIZE,
    "deep tuples": lambda: (b"\x92" + ext(16)) * SIZE,
    "lying lengths, nested": lambda: array32(MIB) * 1000 + b"\xc0" * MIB,
    "unknown extensions": lambda: dense(ext(99, b"abc")),
    "one large array": lambda: ext(1, header(b"<f4", MIB) + bytes(4 * MIB)),
    "one large array inside": lambda: b"\x91" + ext(1, header(b">f4", MIB) + bytes(4 * MIB)),
    "one large bad array": lambda: b"\x91" + ext(1, header(b"|b1", 4 * MIB) + b"\2" * 4 * MIB),
}


@pytest.fixture(params=_HOSTILE, scope="module")
def hostile(request: pytest.FixtureRequest) -> list[bytes]:
    """The message as it is; with an end that only unpacking all of it finds bad; and that, paid for in full."""
    data = _HOSTILE[request.param]()
    spoilt = b"\x92" + data + ext(1)
    price = min(_budget.missing(spoilt), 32 * MIB)
    return [data, spoilt, b"\xc9" + struct.pack(">IB", price, 4) + bytes(price) + spoilt]


def test_memory_stays_within_eight_times_the_input(hostile: list[bytes]) -> None:
    for data in hostile:
        tracemalloc.start()
        try:
            kept = settle(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        del kept
        assert peak <= 8 * len(data) + MIB


def test_time_stays_within_100_ms_per_mib(hostile: list[bytes]) -> None:
    """Time of the processor rather than of the clock; three times the promise, for slow and busy machines."""
    gc.collect()
    gc.freeze()  # what other tests have imported is no cost of this
    for data in hostile:
        began = time.process_time()
        kept = settle(data)
        took = time.process_time() - began
        del kept
        assert took <= 0.3 * len(data) / MIB + 0.03


def test_a_marker_is_no_value() -> None:
    assert isinstance(settle(ext(16)), InvalidArgument)


def _anything(chance: random.Random, depth: int = 0) -> Any:
    """Plain msgpack of all sorts and sizes of tokens, markers among them."""
    if depth < 5 and chance.random() < 0.5:
        parts = [_anything(chance, depth + 1) for _ in range(chance.randrange(20))]
        marker = msgpack.ExtType(chance.choice([16, 17, 18, 19, 20]), b"")
        return chance.choice([parts, [marker, *parts], {str(i): p for i, p in enumerate(parts)}])
    size = chance.choice(
        [1, 2, 10, 300, 300, 70_000 if depth > 3 and chance.random() < 0.02 else 3]
    )
    return chance.choice(
        [None, -7, 300, 2**40, 1.5, "a" * size, b"b" * size, msgpack.ExtType(1, b"x" * size)]
    )


@pytest.mark.parametrize("seed", range(20))
def test_charges_by_the_block_are_charges_by_the_token(seed: int) -> None:
    chance = random.Random(seed)
    data: bytes = msgpack.packb([_anything(chance) for _ in range(20)])
    steps: list[Callable[[int], tuple[int, int]]] = [
        lambda at: _budget._walk(data, at, 1),
        lambda at: _budget._leap(data, at),
    ]
    sums = []
    for step in steps:
        total = position = 0
        while position < len(data):
            cost, position = step(position)
            total += cost
        assert position == len(data)
        sums.append(total)
    assert sums == [_budget.charge(data)] * 2
