"""What a container has written, as its engine's storage has it on this host: the upper layer of its overlay.

An engine's own list of changes leaves out attributes, and whatever has the size and the time that it had before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megaflow_server.attributes import attributes
from megaflow_server.backends.base import Change
from megaflow_server.egress import can_listen

__all__ = ["Layers", "are_seen"]

_OPAQUE = "trusted.overlay.opaque"
# What an overlay writes down for itself. What it says of a folder that was moved is not among these: what is in that
# one is in no upper layer, so that it counts as a difference.
_OVERLAYS = frozenset(
    f"trusted.overlay.{name}"
    for name in ("opaque", "origin", "impure", "nlink", "metacopy", "upper", "uuid", "protattr")
)


def are_seen(driver: object, place: Path) -> bool:
    """Whether layers are to be seen from here, of a driver of this name that stores at this place."""
    # What overlays write down is shown to whoever may administer, alone.
    may = os.geteuid() == 0 and can_listen()
    return may and driver == "overlay2" and place.is_absolute() and place.is_dir()


class Layers:
    """The layers of one container; `upper` is its own, `lower` are those of its image, the topmost first."""

    def __init__(self, upper: Path, lower: Sequence[Path]) -> None:
        self._upper = upper.resolve()
        self._lower = [one.resolve() for one in lower]

    @classmethod
    def of(cls, inspected: Mapping[str, Any]) -> Layers | None:
        """By what the engine says of a container; None where they are not to be seen from here."""
        driver = inspected.get("GraphDriver") or {}
        data = driver.get("Data") or {}
        upper, lower = Path(data.get("UpperDir") or "/absent"), data.get("LowerDir") or ""
        if not are_seen(driver.get("Name"), upper):
            return None
        return cls(upper, [Path(one) for one in lower.split(":") if one])

    def changes(self) -> dict[str, Change]:
        """By path, all that was written, attributes and times alone included; some of it may be what it was before.

        Raises:
            OSError: it cannot be looked at.
        """
        found: dict[str, Change] = {"/": "changed"}
        pending = [""]
        while pending:
            folder = pending.pop()
            with os.scandir(self._upper / folder.lstrip("/")) as entries:
                for entry in list(entries):
                    path, status = f"{folder}/{entry.name}", entry.stat(follow_symlinks=False)
                    if stat.S_ISCHR(status.st_mode) and not status.st_rdev:
                        found[path] = "deleted"
                        continue
                    found[path] = "changed" if self._was_there(path) else "added"
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(path)
                        if _is_opaque(Path(entry.path)):
                            found |= dict.fromkeys(self._hidden(path), "deleted")
        return found

    def attributes(self, path: str) -> str:
        """See `attributes`; "" for what is not there."""
        for place in self._places([self._upper, *self._lower], path):
            return attributes(place, _OVERLAYS)
        return ""

    def _was_there(self, path: str) -> bool:
        return next(self._places(self._lower, path), None) is not None

    def _places(self, layers: Sequence[Path], path: str) -> Iterator[Path]:
        """Where layers have something at a path, by no link: a layer's links lead into the host."""
        for layer in layers:
            place = layer / path.lstrip("/")
            if os.path.lexists(place) and (path == "/" or place.parent.resolve() == place.parent):
                yield place

    def _hidden(self, path: str) -> Iterator[str]:
        """What a folder that was made anew takes the place of, whether or not a layer above had that removed."""
        for place in self._places(self._lower, path):
            if place.is_symlink():
                continue
            for root, folders, files in os.walk(place):
                inner = Path(path, os.path.relpath(root, place))
                yield from (str(inner / name) for name in (*folders, *files))


def _is_opaque(folder: Path) -> bool:
    return _OPAQUE in os.listxattr(folder, follow_symlinks=False)
