"""What patches of git touch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

__all__ = ["paths_of"]

_HEADER = re.compile(r"^(?:---|\+\+\+) (?:[ab]/(?P<path>[^\t\n]+)|/dev/null)", re.MULTILINE)
_RENAMED = re.compile(r"^(?:rename|copy) (?:from|to) (?P<path>.+)$", re.MULTILINE)


def paths_of(patch: str) -> Sequence[str]:
    """The paths that a patch changes, in order.

    Raises:
        ValueError: it is none, or a path leads out of the repository.
    """
    found = [match["path"] for match in _HEADER.finditer(patch)]
    found += [match["path"] for match in _RENAMED.finditer(patch)]
    paths = list(dict.fromkeys(path for path in found if path))
    if not paths:
        raise ValueError("give a patch as `git diff` writes it: there is no '--- a/…' in this")
    for path in paths:
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts or ".git" in parts:
            raise ValueError(f"the patch touches {path!r}, which is outside of the repository")
    return paths
