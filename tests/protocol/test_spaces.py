"""Space definitions: what is built from one is the space that it was made from, for all that anyone can see."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Text,
    Tuple,
)
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument
from megaflow.protocol import values
from megaflow.protocol.spaces import decode_space, encode_space
from strategies.wire_spaces import spaces

MIB = 1 << 20


def public_state(space: Any) -> Any:
    """All attributes of a space and of the spaces inside it, but for random generators."""
    if isinstance(space, gym.Space):
        state = {k: public_state(v) for k, v in vars(space).items() if "random" not in k}
        return (type(space), state)
    if isinstance(space, dict):
        return {key: public_state(part) for key, part in space.items()}
    if isinstance(space, frozenset):
        return sorted(space)
    if isinstance(space, (tuple, list)):
        return type(space)(public_state(part) for part in space)
    return space if isinstance(space, (np.ndarray, np.generic, str, bool, int)) else repr(space)


def assert_same(space: gym.Space[Any], copy: gym.Space[Any]) -> None:
    assert copy == space
    assert repr(copy) == repr(space)
    assert data_equivalence(public_state(space), public_state(copy), exact=True)


@given(spaces(), st.integers(0, 1000))
def test_a_space_comes_back_as_it_was(space: gym.Space[Any], seed: int) -> None:
    copy = decode_space(encode_space(space))
    assert_same(space, copy)
    space.seed(seed)
    copy.seed(seed)
    for _ in range(2):
        sample = space.sample()
        assert data_equivalence(copy.sample(), sample, exact=True)


@pytest.mark.parametrize(
    "space",
    [
        Box(-np.inf, np.inf, (3,), np.int32),
        Box(0, np.inf, (), np.float16),
        Box(np.array([-0.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64),
        Box(0, 1, (0, 3)),
        Box(0, 2**64 - 1, (2,), np.uint64),
        Box(0, 1, (2,), np.dtype(">f4")),
        Discrete(2**63, dtype=np.uint64),
        Discrete(3, start=-128, dtype=np.int8),
        MultiBinary(3),
        MultiBinary([3]),
        MultiBinary((2, 3)),
        Text(5, min_length=0, charset="zxa"),
        Text(3),
        Tuple(()),
        Dict({}),
        Dict([("z", Discrete(2)), ("a", Discrete(3))]),
        Dict({1: Discrete(2), "a": Discrete(3)}),  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_corners_come_back_as_they_were(space: gym.Space[Any]) -> None:
    assert_same(space, decode_space(encode_space(space)))


def test_signs_of_zero_survive() -> None:
    space = Box(np.array([-0.0, 0.0]), np.array([1.0, 1.0]), dtype=np.float64)
    copy: Any = decode_space(encode_space(space))
    assert copy.low.tobytes() == space.low.tobytes()


def test_the_order_of_characters_survives() -> None:
    copy: Any = decode_space(encode_space(Text(5, charset="zxa")))
    assert copy.character_list == ("z", "x", "a")


def test_keys_survive_unsorted_beside_sorted() -> None:
    space = Dict([("z", Dict({"b": Discrete(2), "a": Discrete(2)})), ("a", Discrete(3))])
    copy: Any = decode_space(encode_space(space))
    assert list(copy.spaces) == ["z", "a"]
    assert list(copy["z"].spaces) == ["a", "b"]


def test_the_generator_does_not_travel() -> None:
    space = Discrete(1000)
    plain = encode_space(space)
    space.seed(1)
    space.sample()
    assert encode_space(space) == plain


def test_a_space_of_equal_bounds_is_small() -> None:
    assert len(encode_space(Box(0, 255, (210, 160, 3), np.uint8))) < 200


def test_decoded_bounds_are_writable_and_shared_with_nobody() -> None:
    data = encode_space(Box(0, 1, (2,)))
    one: Any = decode_space(data)
    one.low[:] = -1
    assert decode_space(data) == Box(0, 1, (2,))


def test_graphs_of_any_space_need_a_gymnasium_that_has_them() -> None:
    node = values.decode(encode_space(Text(3)))
    data = values.encode({"kind": "Graph", "node_space": node, "edge_space": None})
    try:
        expected = Graph(Text(3), None)
    except AssertionError:
        with pytest.raises(InvalidArgument, match=r"gymnasium .* cannot build this Graph"):
            decode_space(data)
    else:
        assert decode_space(data) == expected


class _Camera(Box):
    pass


class _Odd(gym.Space[Any]):
    pass


@pytest.mark.parametrize("odd", [_Camera(0, 1, (2,)), _Odd()], ids=["subclass", "custom"])
def test_other_classes_are_refused_with_their_path(odd: gym.Space[Any]) -> None:
    for place, space in {
        "observation_space": odd,
        "observation_space['camera']": Dict(camera=odd),
        "observation_space[1]": Tuple([Discrete(2), odd]),
        "observation_space['a'].feature_space": Dict(a=Sequence(odd)),
    }.items():
        with pytest.raises(InvalidArgument) as caught:
            encode_space(space, path="observation_space")
        message = str(caught.value)
        assert message.startswith(f"{place}: {type(odd).__module__}.{type(odd).__name__} ")
        assert "MultiDiscrete" in message


def test_a_box_of_long_doubles_is_refused() -> None:
    if np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long doubles are doubles here")
    with pytest.raises(InvalidArgument, match=r"space\['a'\]: .*float64"):
        encode_space(Dict(a=Box(0, 1, (2,), np.longdouble)))


def test_nesting_is_limited_alike_on_both_sides() -> None:
    space: gym.Space[Any] = Discrete(2)
    for _ in range(59):
        space = Tuple([space])
    assert decode_space(encode_space(space)) == space
    with pytest.raises(InvalidArgument, match="nested deeper than 60"):
        encode_space(Tuple([space]))


# ---------------------------------------------------------------- definitions that nobody honest sent


def settle(data: bytes) -> Any:
    """Builds, or is refused; any other exception fails the test."""
    try:
        return decode_space(data)
    except InvalidArgument as error:
        return error


def changed(space: gym.Space[Any], **fields: Any) -> bytes:
    return values.encode({**values.decode(encode_space(space)), **fields})


_BOX = Box(0, 1, (2,), np.float32)
_MALFORMED: dict[str, bytes] = {
    "no value": b"\xc1",
    "no definition": b"\xc0",
    "no kind": values.encode({}),
    "unknown kind": values.encode({"kind": "Space"}),
    "kind of list": values.encode({"kind": []}),
    "missing field": values.encode({"kind": "Discrete", "n": 2, "start": 0}),
    "further field": changed(_BOX, seed=1),
    "box of a negative shape": changed(_BOX, shape=[-1]),
    "box of a bool shape": changed(_BOX, shape=[True, True]),
    "box of another shape": changed(_BOX, low=np.zeros(3, np.float32)),
    "box of too many elements": changed(_BOX, shape=[10**9]),
    "box of many empty elements": changed(_BOX, shape=[10**9, 10**9, 0, 10**20]),
    "box of two dtypes": changed(_BOX, low=np.array(0.0)),
    "box of complex bounds": changed(_BOX, low=np.array(0j), high=np.array(1j)),
    "box of text": changed(_BOX, low=np.array("a"), high=np.array("b")),
    "box of objects": changed(_BOX, low=np.array(None), high=np.array(None)),
    "box upside down": changed(_BOX, low=np.array(2, np.float32)),
    "box of NaN": changed(_BOX, low=np.array(np.nan, np.float32)),
    "box bounded by one numpy bool": changed(_BOX, bounded_below=np.True_),
    "box bounded by numbers": changed(_BOX, bounded_below=np.array([1, 1])),
    "box of bounds of float": changed(_BOX, low=0.0),
    "discrete of nothing": changed(Discrete(2), n=0),
    "discrete of bool": changed(Discrete(2), n=True),
    "discrete of float dtype": changed(Discrete(2), dtype="<f4"),
    "discrete of object dtype": changed(Discrete(2), dtype="|O"),
    "discrete of too many": changed(Discrete(2), n=2**63),
    "binary of nothing": changed(MultiBinary(2), n=(0,)),
    "binary of too many": changed(MultiBinary(2), n=10**9),
    "binary of list": changed(MultiBinary(2), n=[2]),
    "counts of zero": changed(MultiDiscrete([2]), nvec=np.array([0])),
    "counts of two shapes": changed(MultiDiscrete([2]), start=np.array([0, 0])),
    "counts of float": changed(MultiDiscrete([2]), nvec=np.array([2.0]), start=np.array([0.0])),
    "text upside down": changed(Text(3), min_length=4),
    "text of a character twice": changed(Text(3), charset="aa"),
    "text of list": changed(Text(3), charset=["a"]),
    "tuple of dict": changed(Tuple(()), spaces={}),
    "tuple of int": changed(Tuple(()), spaces=[1]),
    "dict of list": changed(Dict({}), spaces=[]),
    "dict of int": changed(Dict({}), spaces={"a": 1}),
    "dict sorted by int": changed(Dict({}), sort_keys=1),
    "choice of nothing": values.encode({"kind": "OneOf", "spaces": []}),
    "sequence stacked by int": changed(Sequence(Discrete(2)), stack=1),
    "sequence of nothing": changed(Sequence(Discrete(2)), feature_space=None),
    "graph of nothing": changed(Graph(Discrete(2), None), node_space=None),
}


@pytest.mark.parametrize("data", _MALFORMED.values(), ids=_MALFORMED.keys())
def test_malformed_definitions_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^action_space"):
        decode_space(data, path="action_space")


@given(spaces(), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_mutations_are_refused_or_build(space: gym.Space[Any], chance: random.Random) -> None:
    data = bytearray(encode_space(space))
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    built = settle(bytes(data))
    if isinstance(built, gym.Space):
        assert_same(built, decode_space(encode_space(built)))


def node(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, **fields}


def _stacked(levels: int) -> dict[str, Any]:
    """Each level of stacking doubles what is built."""
    inner = node("Discrete", n=2, start=0, dtype="<i8")
    for _ in range(levels):
        inner = node("Sequence", feature_space=inner, stack=True)
    return inner


_BOX_NODE = values.decode(encode_space(_BOX))
_COSTLY: dict[str, Callable[[], Any]] = {
    "stacks in stacks": lambda: _stacked(50),
    "too many spaces": lambda: node("Tuple", spaces=[_BOX_NODE] * 20_000),
    "many boxes and a bad one": lambda: node("Tuple", spaces=[_BOX_NODE] * 10_000 + [None]),
    "large boxes": lambda: node("Tuple", spaces=[{**_BOX_NODE, "shape": [10_000_000]}] * 20),
    "a bad box with large bounds": lambda: {
        **_BOX_NODE,
        "shape": [MIB],
        "low": np.ones(MIB, np.float32),
        "high": np.zeros(MIB, np.float32),
    },
}


@pytest.mark.parametrize("make", _COSTLY.values(), ids=_COSTLY.keys())
def test_refusing_costs_little_memory_and_time(make: Callable[[], Any]) -> None:
    """Three times the promised time, of the processor, for slow and busy machines."""
    data = values.encode(make())
    began = time.process_time()
    assert isinstance(settle(data), InvalidArgument)
    assert time.process_time() - began <= 0.3 * len(data) / MIB + 0.1
    tracemalloc.start()
    try:
        settle(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 8 * len(data) + 4 * MIB
