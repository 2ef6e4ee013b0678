"""What a pool wants done: `state` decides, `pools` does it and tells `state` what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from megaflow.errors import MegaflowError

__all__ = ["Action", "Create", "Destroy", "Refuse", "Reset", "Serve"]


@dataclass(frozen=True)
class Create:
    """Make an instance, and tell `created` or `creation_failed`."""

    id: str


@dataclass(frozen=True)
class Reset:
    """Reset an instance and compare it with a fresh one, and tell `was_reset`."""

    id: str


@dataclass(frozen=True)
class Destroy:
    """End an instance, whatever it takes, and tell `destroyed`."""

    id: str


@dataclass(frozen=True)
class Serve:
    """Hand an instance to a claim; `warm` says whether it was waiting when the claim came."""

    claim: int
    id: str
    warm: bool


@dataclass(frozen=True)
class Refuse:
    """Tell a claim that it gets none."""

    claim: int
    error: MegaflowError


Action = Create | Reset | Destroy | Serve | Refuse
