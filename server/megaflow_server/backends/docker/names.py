"""The names and labels that our containers and images carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from megaflow_server.backends.base import Image, InstanceSpec, Profile

__all__ = [
    "COMMENT",
    "IMAGE",
    "SCOPE",
    "Carried",
    "build_labels",
    "carried",
    "committed",
    "container",
    "container_labels",
    "image_labels",
    "selector",
    "sizes",
]

SCOPE = "megaflow-scope"
ID = "megaflow-id"
PROFILE = "megaflow-profile"
DISK = "megaflow-disk"
BASE = "megaflow-base"
WRITTEN = "megaflow-written"
IMAGE = "megaflow-image"
# All labels as one, since a container inherits those of its image: what a commit wrote there long ago.
LABELS = "megaflow-labels"
# Of what is committed here: labels come of any Dockerfile, and no Dockerfile sets this.
COMMENT = "a snapshot of megaflow's"
# Each of them once more by its name, for people and for the engine's own filters.
_PREFIX = "megaflow."
# What text that is no JSON says; nothing that JSON says is this.
_NOTHING = object()


@dataclass(frozen=True)
class Carried:
    """What a container of ours says of itself.

    Attributes:
        disk: bytes that it may write, with those of the snapshots that it came of; None for any number.
        base: bytes of the image that the first of these snapshots' instances was made of, else of its own.
        written: bytes of the snapshots that it came of, beyond those.
    """

    id: str
    labels: Mapping[str, str]
    profile: str
    disk: int | None
    base: int
    written: int


def container(scope: str, instance_id: str) -> str:
    """The name of an instance's container."""
    return f"{scope}-{instance_id}"


def container_labels(
    scope: str, spec: InstanceSpec, inherited: Mapping[str, str], base: int, written: int
) -> dict[str, str]:
    """The labels of a container, `inherited` being those of its image; of the rest see `Carried`."""
    return _labels(spec.labels, inherited) | {
        SCOPE: scope,
        ID: spec.id,
        PROFILE: spec.profile or "",
        DISK: json.dumps(None if spec.limits.disk is None else int(spec.limits.disk)),
        BASE: str(base),
        WRITTEN: str(written),
        IMAGE: "",
    }


def image_labels(
    scope: str, labels: Mapping[str, str], instance: Mapping[str, str], base: int
) -> dict[str, str]:
    """The labels of an image that is committed; `instance` are those of what it is committed from, `base` its own."""
    inherited = {f"{_PREFIX}{name}": value for name, value in instance.items()}
    return _labels(labels, inherited) | {SCOPE: scope, IMAGE: "commit", BASE: str(base)}


def build_labels() -> dict[str, str]:
    """The labels of an image that is built here: whatever its Dockerfile says, it is none of what we made."""
    ours = (SCOPE, ID, PROFILE, DISK, BASE, WRITTEN, LABELS)
    return dict.fromkeys(ours, "") | {IMAGE: "build"}


def sizes(scope: str, image: Mapping[str, Any]) -> tuple[int, int]:
    """Of what an engine says of an image: the bytes that none of our instances wrote, and those that one did."""
    size = int(image.get("Size") or 0)
    if committed(scope, image) is None:
        return size, 0
    base = _parsed(image["Config"]["Labels"].get(BASE, ""))
    if not _is_count(base, least=0):
        return size, 0
    return base, max(0, size - base)


def carried(scope: str, inspected: Mapping[str, Any]) -> Carried | None:
    """What a container carries, by what the engine says of it; None where it is none of this scope.

    Whoever can start a container or write a Dockerfile can have it carry some of our labels, or all of them.
    """
    found = inspected["Config"].get("Labels") or {}
    labels, instance = _labels_in(found), found.get(ID)
    if labels is None or found.get(SCOPE) != scope or not instance:
        return None
    if inspected["Name"] != f"/{container(scope, instance)}":
        return None
    disk = _parsed(found.get(DISK, ""))
    if found.get(PROFILE) not in get_args(Profile) or not (disk is None or _is_count(disk)):
        return None
    base, written = (_parsed(found.get(name, "")) for name in (BASE, WRITTEN))
    if not _is_count(base, least=0) or not _is_count(written, least=0):
        return None
    return Carried(instance, labels, found[PROFILE], disk, base, written)


def committed(scope: str, inspected: Mapping[str, Any]) -> Image | None:
    """What an image carries, by what the engine says of it; None where it was not committed in this scope."""
    found = inspected["Config"].get("Labels") or {}
    labels = _labels_in(found)
    if labels is None or (found.get(SCOPE), found.get(IMAGE)) != (scope, "commit"):
        return None
    return Image(inspected["Id"], labels) if inspected.get("Comment") == COMMENT else None


def selector(scope: str, labels: Mapping[str, str], *more: str) -> dict[str, list[str]]:
    """The engine's filter for what carries these."""
    chosen = [f"{_PREFIX}{name}={value}" for name, value in labels.items()]
    return {"label": [f"{SCOPE}={scope}", *chosen, *more]}


def _labels(labels: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    stale = {name: "" for name in inherited if name.startswith(_PREFIX)}
    named = {f"{_PREFIX}{name}": value for name, value in labels.items()}
    return stale | named | {LABELS: json.dumps(dict(labels))}


def _labels_in(found: Mapping[str, str]) -> Mapping[str, str] | None:
    """What `_labels` was given; None where this is not what it gives."""
    labels = _parsed(found.get(LABELS, ""))
    if not isinstance(labels, dict) or not all(isinstance(one, str) for one in labels.values()):
        return None
    named = {f"{_PREFIX}{name}": value for name, value in labels.items()}
    return labels if named.items() <= found.items() else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
