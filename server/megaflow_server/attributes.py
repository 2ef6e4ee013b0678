"""Extended attributes of files, of which access lists are some: anything may be written there."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Set
from pathlib import Path

__all__ = ["attributes"]


def attributes(path: Path, but: Set[str] = frozenset()) -> str:
    """A digest of those of a file, a folder or a link itself, without what is in `but`; "" where there are none.

    Raises:
        OSError: there is no such file, or it may not be looked at.
    """
    try:
        names = sorted(set(os.listxattr(path, follow_symlinks=False)) - but)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ""
        raise
    values = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
    return hashlib.sha256(repr(values).encode()).hexdigest() if values else ""
