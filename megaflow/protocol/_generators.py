"""Random generators as values: the state of numpy's own bit generators, checked before numpy sees it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.random.bit_generator import ISeedSequence

__all__ = ["generator", "generator_state"]


class _NoSeed(ISeedSequence):
    """Stands where the seed sequence was, which does not travel: `Generator.spawn` raises, as it should."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray[Any, Any]:
        return np.ones(n_words, dtype)


_BIT_GENERATORS: Final[dict[str, Any]] = {
    cls.__name__: cls
    for cls in (
        np.random.MT19937,
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.Philox,
        np.random.SFC64,
    )
}
# Indices into the state's own buffers, which numpy does not check: beyond them it reads foreign memory.
_INDICES: Final = {"pos": 624, "buffer_pos": 4, "has_uint32": 1}


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of a generator, as numpy gives it; it names its bit generator."""
    bits = generator.bit_generator
    if _BIT_GENERATORS.get(type(bits).__name__) is not type(bits):
        raise ValueError(
            f"a generator over {type(bits)}; {', '.join(_BIT_GENERATORS)} can be encoded"
        )
    state: Any = bits.state
    return dict(state)


def generator(items: list[Any]) -> np.random.Generator:
    """The generator that a marked list stands for.

    Raises:
        ValueError: its state is not one that numpy gives.
    """
    state: Any = items[1] if len(items) == 2 else None
    name = state.get("bit_generator") if type(state) is dict else None
    if type(name) is not str or name not in _BIT_GENERATORS:
        raise ValueError(f"a random generator over {name!r}")
    bits = _BIT_GENERATORS[name](_NoSeed())
    _check_state(state, bits.state, name)
    try:
        bits.state = state
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a state that {name} refuses: {error}") from None
    return np.random.Generator(bits)


def _check_state(state: Any, model: Any, where: str) -> None:
    """Refuses a state that is not built like `model`, the state of a fresh generator."""
    if type(state) is not type(model):
        raise ValueError(f"{where} is {type(state)}")
    if isinstance(model, dict):
        if state.keys() != model.keys():
            raise ValueError(f"{where} has the keys {sorted(map(repr, state))}")
        for key, part in model.items():
            _check_state(state[key], part, f"{where}[{key!r}]")
            if key in _INDICES and not 0 <= state[key] <= _INDICES[key]:
                raise ValueError(f"{where}[{key!r}] is {state[key]}")
    elif isinstance(model, np.ndarray):
        if state.shape != model.shape or state.dtype != model.dtype:
            raise ValueError(f"{where} has shape {state.shape} and dtype {state.dtype}")
    elif isinstance(model, int) and not 0 <= state < 1 << 128:
        raise ValueError(f"{where} is out of range")
