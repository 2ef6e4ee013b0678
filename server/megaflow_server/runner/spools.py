"""The folders that runners of this machine write in first, where their trajectories go to a store that is none."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from pathlib import Path

from megaflow.errors import InvalidArgument
from megaflow_server.runs import STATE_VARIABLE

__all__ = ["Spool"]


class Spool:
    """A runner's own folder, and those that runners which are no more have left.

    A folder is held by a lock that ends with its process, and belongs to one store: what was written for another waits
    for a runner of that one.

    Args:
        folder: of all runners of this machine and user; it is made.
        url: where trajectories are uploaded to.

    Attributes:
        own: this runner's, and nobody else's.
        left: of runners that were killed; nobody else's until this one is closed.

    Raises:
        InvalidArgument: the folder cannot be used.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._held: dict[Path, int] = {}
        try:
            self._open(folder / hashlib.sha256(url.encode()).hexdigest()[:16])
        except OSError as error:
            raise InvalidArgument(
                f"{folder}: cannot be written: {error.strerror}; name another folder in ${STATE_VARIABLE}"
            ) from error

    def remove(self, path: Path) -> None:
        """One of those that were left is empty now, but for folders."""
        shutil.rmtree(path, ignore_errors=True)
        os.close(self._held.pop(path))
        self.left.remove(path)

    def close(self) -> None:
        """Lets go of all of them; the own goes, too, where nothing is left in it."""
        if not any(path.is_file() for path in self.own.rglob("*")):
            shutil.rmtree(self.own, ignore_errors=True)
        for held in self._held.values():
            os.close(held)
        self._held.clear()

    def _open(self, store: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        # Held while there may be a folder that its owner has not got hold of yet.
        door = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(door, fcntl.LOCK_EX)
            self.left = [path for path in sorted(store.iterdir()) if self._take(path)]
            self.own = store / secrets.token_hex(8)
            self.own.mkdir()
            self._take(self.own)
        finally:
            os.close(door)

    def _take(self, path: Path) -> bool:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return False
        self._held[path] = held
        return True
