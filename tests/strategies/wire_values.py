"""Values of every type that the wire carries, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces.graph import GraphInstance
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

__all__ = ["arrays", "generators", "hashable_scalars", "object_arrays", "scalars", "values"]

# No surrogates: UTF-8 has none.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# numpy drops the zeros that end a text, on its way into an array.
_WITHOUT_ZEROS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3
)
_NUMBERS = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
_BIT_GENERATORS = [
    np.random.PCG64,
    np.random.PCG64DXSM,
    np.random.MT19937,
    np.random.Philox,
    np.random.SFC64,
]


def _numpy_scalars() -> st.SearchStrategy[Any]:
    # NaN is left to a test of its own: it equals nothing, not even itself.
    numbers = st.sampled_from(_NUMBERS).flatmap(
        lambda name: hnp.from_dtype(np.dtype(name), allow_nan=False)
    )
    return numbers | _TEXT.map(np.str_) | st.binary(max_size=20).map(np.bytes_)


hashable_scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    _TEXT,
    st.binary(max_size=20),
    _numpy_scalars(),
)
scalars = hashable_scalars


def _views(array: np.ndarray[Any, Any]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """The array as it is, in Fortran order, back to front, or in the other byte order."""
    views = [array, np.asfortranarray(array), array.T, array.astype(array.dtype.newbyteorder(">"))]
    if array.ndim:
        views += [array[::-1], array[::2]]
    return st.sampled_from(views)


def arrays() -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Arrays of every dtype and memory layout, of 0 to 4 dimensions, empty ones among them."""
    dtypes = st.sampled_from(_NUMBERS).map(np.dtype) | st.sampled_from(["U3", "S5"]).map(np.dtype)
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    return (
        st.tuples(dtypes, shapes)
        .flatmap(
            lambda both: hnp.arrays(
                both[0],
                both[1],
                elements=hnp.from_dtype(both[0], allow_nan=False)
                if both[0].kind != "U"
                else _WITHOUT_ZEROS,
            )
        )
        .flatmap(_views)
    )


def object_arrays(children: st.SearchStrategy[Any]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Arrays of anything, of 1 to 3 dimensions: `data_equivalence` iterates, so none of 0."""

    def fill(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
        size = int(np.prod(shape))

        def make(items: list[Any]) -> np.ndarray[Any, Any]:
            array = np.empty(shape, object)
            for index, item in zip(np.ndindex(shape), items, strict=True):
                array[index] = item
            return array

        return st.lists(children, min_size=size, max_size=size).map(make)

    return hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=2).flatmap(fill)


def _containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(children, max_size=4)
    keys = hashable_scalars | st.lists(hashable_scalars, max_size=3).map(tuple)
    return st.one_of(
        lists,
        lists.map(tuple),
        st.dictionaries(_TEXT, children, max_size=4),
        st.dictionaries(keys, children, max_size=4),
        st.builds(GraphInstance, arrays(), st.none() | arrays(), st.none() | arrays()),
        object_arrays(children),
    )


def generators() -> st.SearchStrategy[np.random.Generator]:
    """Random generators over each bit generator, some of which have drawn half a word."""

    def make(cls: Any, seed: int, drawn: int) -> np.random.Generator:
        generator = np.random.Generator(cls(seed))
        generator.integers(7, size=drawn, dtype=np.int32)
        return generator

    return st.builds(
        make, st.sampled_from(_BIT_GENERATORS), st.integers(0, 2**32), st.integers(0, 5)
    )


def values() -> st.SearchStrategy[Any]:
    """Values that `data_equivalence` can compare: all but generators and NaN."""
    return st.recursive(scalars | arrays(), _containers, max_leaves=12)
