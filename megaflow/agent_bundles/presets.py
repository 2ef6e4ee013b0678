"""Command-line agents that are known by name: how each is asked, and what its bundle is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from megaflow.agent_bundles.recipe import Recipe
from megaflow.errors import NotFound

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """One of them.

    Attributes:
        recipe: its `command` and `env` are those of the agent `cli`, also where the image has the program itself.
        tested: whether megaflow's developers have run it, in this version, with a model that was told what to say.
    """

    recipe: Recipe
    tested: bool


_ALL: Final[tuple[Preset, ...]] = ()

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType({one.recipe.name: one for one in _ALL})


def preset(name: str) -> Preset:
    """One by its name. Raises NotFound."""
    if name not in PRESETS:
        raise NotFound(f"preset={name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]
