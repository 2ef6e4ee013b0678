"""Whether a container has the program that it is to run.

The engine does not say: it starts the init process, which ends a moment later, with 127, where there is none.
"""

from __future__ import annotations

import base64
import json
import posixpath
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

__all__ = ["described", "find_program", "search_path"]

# What a runtime searches where neither image nor spec has a PATH.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_LINKS = 8
# Go's os.ModeDir and os.ModeSymlink, which are not the kernel's.
_FOLDER = 1 << 31
_LINK = 1 << 27

# What lies at a path, as `described` gives it; None where nothing does.
Look = Callable[[str], Awaitable[Mapping[str, Any] | None]]


def search_path(environ: Sequence[str]) -> str:
    """The PATH of a container's environment."""
    given = [entry[5:] for entry in environ if entry.startswith("PATH=")]
    return given[-1] if given else _DEFAULT_PATH


def described(header: str) -> Mapping[str, Any]:
    """What the engine says of a path: its mode, and where it leads if it is a link."""
    found: Mapping[str, Any] = json.loads(base64.b64decode(header))
    return found


async def find_program(name: str, path: str, directory: str, look: Look) -> str | None:
    """Where a program is, as its runtime finds it; None where there is none that can be run."""
    if "/" in name:
        places = [posixpath.join(directory or "/", name)]
    else:
        places = [posixpath.join(entry or directory or "/", name) for entry in path.split(":")]
    for place in places:
        if await _runs(place, look):
            return place
    return None


async def _runs(place: str, look: Look) -> bool:
    for _ in range(_MOST_LINKS):
        found = await look(place)
        if found is None:
            return False
        if not found["mode"] & _LINK:
            return not found["mode"] & _FOLDER and bool(found["mode"] & 0o111)
        place = posixpath.join(posixpath.dirname(place), found["linkTarget"])
    return False
