"""Agent bundles: command-line agents with their runtimes as folders, built once, and copied into sandboxes as they are.

`recipe` says what a bundle is made of, `presets` has the recipes of known agents, `runtime` copies a runtime so that it
runs in any image, `building` makes bundles, and `store` finds those of this machine.
"""

from __future__ import annotations

from megaflow.agent_bundles.building import build
from megaflow.agent_bundles.presets import PRESETS, Preset, preset
from megaflow.agent_bundles.recipe import Recipe
from megaflow.agent_bundles.store import Bundle, bundles, find, folder

__all__ = ["PRESETS", "Bundle", "Preset", "Recipe", "build", "bundles", "find", "folder", "preset"]
