"""Values: what is decoded is what was encoded, to the last type; what cannot be encoded says where."""

from __future__ import annotations

import collections
import enum
import math
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
from gymnasium.spaces.graph import GraphInstance
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument
from megaflow.protocol.values import decode, encode
from strategies.wire_values import arrays, generators, values


def same(one: Any, other: Any) -> bool:
    return data_equivalence(one, other, exact=True)


@given(values())
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert same(decode(encode(value)), value)


@given(values())
def test_bytes_are_the_same_after_a_round_trip(value: Any) -> None:
    """Stronger than equality: it sees the order of keys, 1 beside 1.0 as keys, and -0.0."""
    data = encode(value)
    assert encode(decode(data)) == data


@given(values())
def test_a_view_of_memory_decodes_like_bytes(value: Any) -> None:
    data = encode(value)
    assert same(decode(memoryview(b"x" + data + b"y")[1:-1]), decode(data))


@given(arrays(), st.booleans())
def test_decoded_arrays_belong_to_the_receiver(array: np.ndarray[Any, Any], nested: bool) -> None:
    decoded = decode(encode([array]))[0] if nested else decode(encode(array))
    assert decoded.flags.writeable
    assert decoded.flags.owndata
    assert decoded.flags.aligned
    assert decoded.flags.c_contiguous


def test_changing_a_decoded_array_changes_nothing_else() -> None:
    data = encode(np.zeros(3))
    decode(data)[:] = 1
    assert same(decode(data), np.zeros(3))


@pytest.mark.parametrize(
    "value",
    [float("nan"), np.float32("nan"), np.float64(-0.0), -0.0, np.array(np.nan, np.float16)],
)
def test_odd_floats_keep_type_and_bits(value: Any) -> None:
    decoded = decode(encode(value))
    assert type(decoded) is type(value)
    assert np.asarray(decoded).tobytes() == np.asarray(value).tobytes()


def test_bits_of_nan_survive() -> None:
    bits = np.array([0x7FC00001, 0xFFA00123], np.uint32)
    assert same(decode(encode(bits.view(np.float32))).view(np.uint32), bits)


@pytest.mark.parametrize("text", [np.str_("a\0"), np.str_(""), np.bytes_(b"a\0\0"), np.bytes_(b"")])
def test_trailing_zeros_of_numpy_text_survive(text: Any) -> None:
    decoded = decode(encode(text))
    assert type(decoded) is type(text)
    assert len(decoded) == len(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, 1),
        (1, 1.0),
        (1.0, np.float64(1)),
        (np.float64(1), np.array(1.0)),
        (np.bool_(True), True),
        ("a", np.str_("a")),
        ((1,), [1]),
        ({1: 2}, {"1": 2}),
        (np.zeros(2, ">i4"), np.zeros(2, "<i4")),
        (np.zeros((0, 2)), np.zeros((2, 0))),
        (np.array([None]), [None]),
    ],
)
def test_neighbours_are_told_apart(one: Any, other: Any) -> None:
    assert encode(one) != encode(other)
    assert same(decode(encode(one)), one)
    assert same(decode(encode(other)), other)


def test_order_of_keys_survives() -> None:
    for value in ({"b": 1, "a": 2}, {2: 1, "a": 0, 1: 3}):
        assert list(decode(encode(value))) == list(value)


def test_an_object_array_of_no_dimensions_survives() -> None:
    array = np.empty((), object)
    array[()] = [1, (2,)]
    decoded = decode(encode(array))
    assert decoded.shape == ()
    assert decoded.item() == [1, (2,)]


def test_arrays_inside_object_arrays_stay_arrays() -> None:
    array = np.empty(2, object)
    array[0], array[1] = np.array(3), np.zeros(2)
    decoded = decode(encode(array))
    assert same(decoded[0], array[0])
    assert same(decoded[1], array[1])


@given(generators())
@settings(max_examples=30)
def test_a_generator_draws_the_same_numbers(generator: np.random.Generator) -> None:
    copy = decode(encode(generator))
    assert same(copy.bit_generator.state, generator.bit_generator.state)
    for dtype in (np.int32, np.int64):
        assert same(
            copy.integers(99, size=1300, dtype=dtype),
            generator.integers(99, size=1300, dtype=dtype),
        )
    assert copy.random() == generator.random()


def test_a_decoded_generator_refuses_to_spawn() -> None:
    with pytest.raises(TypeError):
        decode(encode(np.random.default_rng(1))).spawn(1)


@pytest.mark.parametrize(
    "value", [[1.5] * 300_000, ["word"] * 100_000, [-7] * 200_000, [{}] * 65_536]
)
def test_honest_values_of_many_small_parts_pass(value: list[Any]) -> None:
    assert decode(encode(value)) == value


def test_a_padded_value_is_told_from_a_larger_one() -> None:
    """Padding pays for memory; without it the same bytes are refused."""
    data = encode([-7] * 200_000)
    plain = msgpack.packb([-7] * 200_000)
    assert data.endswith(plain)
    with pytest.raises(InvalidArgument, match="memory"):
        decode(plain)


# ---------------------------------------------------------------- refused


class _Colour(enum.IntEnum):
    RED = 1


class _Point(NamedTuple):
    x: int


class _Text(str):
    pass


class _Array(np.ndarray[Any, Any]):
    pass


class _Camera:
    pass


_REFUSED: list[Any] = [
    _Colour.RED,
    _Point(1),
    _Text("a"),
    collections.OrderedDict(a=1),
    collections.defaultdict(int),
    {1, 2},
    bytearray(b"a"),
    memoryview(b"a"),
    _Camera(),
    msgpack.ExtType(16, b""),
    msgpack.Timestamp(1),
    np.ma.masked_array([1], [True]),
    np.zeros(1).view(_Array),
    np.longdouble(1),
    np.zeros(1, np.longdouble),
    np.zeros(1, "M8[s]"),
    np.zeros(1, "f4,f4"),
    np.random.RandomState(1),
    "\ud800",
]


@pytest.mark.parametrize("value", _REFUSED, ids=lambda value: type(value).__name__)
def test_what_the_wire_lacks_is_refused_with_its_path(value: Any) -> None:
    objects = np.empty((1, 2), object)
    objects[0, 1] = value
    for place, whole in {
        "action": value,
        "action[0]": [value],
        "action['a'][1]": {"a": [0, value]},
        "action[2]": (0, 1, value),
        "action[5]['b']": {5: {"b": value}},
        "action[0, 1]": objects,
        "action.nodes": GraphInstance(value, None, None),
    }.items():
        with pytest.raises(InvalidArgument) as caught:
            encode(whole, path="action")
        assert str(caught.value).startswith(place + ":")


def test_a_refusal_names_the_type_and_what_is_carried() -> None:
    with pytest.raises(InvalidArgument, match=r"_Camera.*the wire carries None"):
        encode({"camera": _Camera()})


@pytest.mark.parametrize("key", [_Text("a"), frozenset({1}), "\ud800"])
def test_a_key_that_cannot_be_encoded_is_named(key: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^value, key .*: "):
        encode({key: 1})


def _cyclic() -> list[Any]:
    in_list: list[Any] = []
    in_list += [in_list, in_list]
    in_dict: dict[Any, Any] = {}
    in_dict[1] = (in_dict,)
    in_array = np.empty(1, object)
    in_array[0] = in_array
    return [in_list, in_dict, in_array]


@pytest.mark.parametrize("value", _cyclic(), ids=["list", "dict", "array"])
def test_a_value_inside_itself_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="nested deeper than 128 levels, or contains itself"):
        encode(value)


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: {1: v}]
)
def test_depth_is_limited_alike_on_both_sides(wrap: Any) -> None:
    value: Any = None
    for _ in range(128):
        value = wrap(value)
    assert decode(encode(value)) == value
    with pytest.raises(InvalidArgument, match="nested deeper"):
        encode(wrap(value))
    deep: Any = None
    for _ in range(50_000):
        deep = wrap(deep)
    with pytest.raises(InvalidArgument, match="nested deeper"):
        encode(deep)


def test_floats_are_compared_by_bits_here() -> None:
    assert math.copysign(1, decode(encode(-0.0))) == -1
