"""Removes folders that somebody may have filled with what is hard to remove: locked, or deeper than any path is long.

The standard library alone, since the janitor takes it.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["remove_tree"]


def remove_tree(folder: Path) -> None:
    """Remove a folder with everything in it, once nobody writes there any more; one that is not there is fine.

    So is somebody else who removes it meanwhile.

    Raises:
        OSError: something is left, such as what belongs to somebody else.
    """
    with suppress(FileNotFoundError):
        with _unlocked(_found(folder)) as top:
            # What is in its folders comes up into it, so that none is ever deep, and two are open at a time.
            while inner := _unlink_files(top):
                for name in inner:
                    with suppress(FileNotFoundError):
                        _flatten(name, top)
        os.rmdir(folder)


def _flatten(name: str, top: int) -> None:
    with _unlocked(_found(name, top)) as one:
        for deeper in _unlink_files(one):
            with suppress(FileNotFoundError):
                _bring_up(deeper, one, top)
    os.rmdir(name, dir_fd=top)


def _found(name: str | Path, folder: int | None = None) -> int:
    """A folder that may be locked; no link to one."""
    return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)


@contextmanager
def _unlocked(found: int) -> Iterator[int]:
    """A folder that may be read and written to, of one that was only found, which is closed."""
    try:
        if os.fstat(found).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{found}", stat.S_IRWXU)
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=found)
    finally:
        os.close(found)
    try:
        yield opened
    finally:
        os.close(opened)


def _unlink_files(folder: int) -> list[str]:
    """Remove what is no folder; gives the names of the folders."""
    inner = []
    with os.scandir(folder) as found:
        for entry in list(found):
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=folder)
    return inner


def _bring_up(name: str, folder: int, top: int) -> None:
    # Where its parent is, is written in itself; and nobody has called anything by that name.
    with _unlocked(_found(name, folder)):
        os.rename(name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
