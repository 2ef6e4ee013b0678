"""The bundles of this machine: a folder to each version of each agent, and the same as a tar archive."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from megaflow.errors import NotFound

__all__ = ["ARCHIVE", "DESCRIPTION", "FOLDER_VARIABLE", "Bundle", "bundles", "find", "folder"]

FOLDER_VARIABLE: Final = "MEGAFLOW_AGENTS"
DESCRIPTION: Final = "bundle.json"
ARCHIVE: Final = "bundle.tar"


def folder() -> Path:
    """$MEGAFLOW_AGENTS, else megaflow/agents in $XDG_DATA_HOME, else in the user's ~/.local/share."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME")
    return Path(data or Path.home() / ".local" / "share") / "megaflow" / "agents"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One of them.

    Attributes:
        path: of its folder, which has the archive, too.
        root: where it is in a sandbox.
        command, env: of its recipe.
        size: bytes of its archive.
    """

    name: str
    version: str
    path: Path
    command: str
    env: Mapping[str, str]
    size: int

    @property
    def root(self) -> str:
        return f"/megaflow-{self.name}-{self.version}"

    @property
    def archive(self) -> Path:
        return self.path / ARCHIVE


def bundles(where: Path | None = None) -> list[Bundle]:
    """All of them, by name, those of one name in the order in which they were built."""
    found = sorted(
        (where or folder()).glob(f"*/*/{DESCRIPTION}"),
        key=lambda path: (path.parent.parent.name, path.stat().st_mtime_ns),
    )
    return [_read(path.parent) for path in found]


def find(wanted: str, where: Path | None = None) -> Bundle:
    """The one of a name, the last that was built, or of NAME@VERSION.

    Raises:
        NotFound: there is none; with those that there are.
    """
    name, _, version = wanted.partition("@")
    there = bundles(where)
    for bundle in reversed(there):
        if bundle.name == name and version in ("", bundle.version):
            return bundle
    known = ", ".join(f"{one.name}@{one.version}" for one in there) or "none"
    raise NotFound(
        f"bundle={wanted!r}: there is none in {where or folder()}, where the runner is; there are {known}: "
        "megaflow agents bundle makes them"
    )


def _read(path: Path) -> Bundle:
    told = json.loads((path / DESCRIPTION).read_text())
    return Bundle(
        name=told["name"],
        version=told["version"],
        path=path,
        command=told["command"],
        env=told["env"],
        size=(path / ARCHIVE).stat().st_size,
    )
