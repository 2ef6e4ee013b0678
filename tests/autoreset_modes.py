"""In which autoreset modes an environment is tested: in every one, or in one of them, in turn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest
from gymnasium.vector import AutoresetMode

__all__ = ["MODES", "id_and_mode"]

MODES = tuple(AutoresetMode)


def id_and_mode(
    every: Sequence[str], in_turn: Sequence[str], first: int = 0, long: Collection[str] = ()
) -> pytest.MarkDecorator:
    """Parametrises a test with `id` and `mode`.

    Args:
        every: ids for all modes.
        in_turn: ids for one mode each, as variants of what is among the others.
        first: the mode of the first of these. Tests that differ here have more of them between them.
        long: those of the ids that take long.
    """
    pairs = [(id, mode) for id in every for mode in MODES]
    pairs += [(id, MODES[(first + place) % len(MODES)]) for place, id in enumerate(in_turn)]
    given: list[Any] = [
        pytest.param(
            *pair, id=f"{pair[0]}-{pair[1].value}", marks=[pytest.mark.long] * (pair[0] in long)
        )
        for pair in pairs
    ]
    return pytest.mark.parametrize(("id", "mode"), given)
