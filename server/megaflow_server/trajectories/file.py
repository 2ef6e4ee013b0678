"""One trajectory's file and the blobs beside it, written and synced by whichever thread commits."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path

from megaflow.errors import FailedPrecondition, MegaflowError, ResourceExhausted, Unavailable
from megaflow.trajectory.blobs import Blob
from megaflow.trajectory.frames import Dropped, Scanner, preamble

__all__ = ["TrajectoryFile", "failure"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def failure(path: os.PathLike[str] | str, error: OSError) -> MegaflowError:
    """What a failed write is to megaflow."""
    if error.errno in _FULL:
        return ResourceExhausted(
            f"trajectory {path}: no room to write it ({error.strerror}); free some space there",
            retry_after=5.0,
        )
    return Unavailable(f"trajectory {path} cannot be written: {error.strerror or error}")


class TrajectoryFile:
    """The file at a path, made by the first commit; it is opened for each, so thousands need no descriptors.

    Args:
        path: where; its folder is made. Blobs lie in `blobs` beside it.
        note_blobs: keep a list of the blobs, for who uploads them.

    Attributes:
        size: bytes that are written; what fails to be is cut off again, and may be tried again.
        file_id, next_number: what frames of this file are made with.
        blobs: those that this file's records name, where they are noted.
    """

    def __init__(self, path: Path, *, note_blobs: bool = False) -> None:
        self.path = path
        self.size = 0
        self.file_id = secrets.randbits(32)
        self.next_number = 0
        self.blobs: list[Blob] = []
        self._note_blobs = note_blobs
        self._unsynced: set[Path] = set()
        self._dead: MegaflowError | None = None
        self._lock = threading.Lock()
        self._made = False

    @classmethod
    def resume(cls, path: Path) -> TrajectoryFile:
        """The file of a writer that is no more; its torn tail is cut off. Raises InvalidArgument, Unavailable."""
        file = cls(path)
        scanner = Scanner()
        with path.open("r+b") as opened:
            while piece := opened.read(1 << 20):
                scanner.feed(piece)
                for found in scanner.frames():
                    if not isinstance(found, Dropped):
                        file.next_number = found.number + 1
            tail = scanner.finish()
            file.size = scanner.fed if tail is None else tail.offset
            opened.truncate(file.size)
        if scanner.file_id is not None:
            file.file_id = scanner.file_id
        file._made = True
        return file

    def commit(self, pieces: Iterable[bytes], *, sync: bool) -> None:
        """Append; with `sync` it is on the disk when this returns, with the blobs that it names.

        Raises:
            ResourceExhausted: no room. What was there stays, and the same may be tried again.
            Unavailable: the file cannot be written; after a failed sync it never can.
            FailedPrecondition: a first commit finds a file already there.
        """
        with self._lock:
            if self._dead is not None:
                raise self._dead
            if not self._made:
                self._make()
            head = b"" if self.size else preamble(self.file_id)
            data = head + b"".join(pieces)
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            except OSError as error:
                raise failure(self.path, error) from error
            try:
                self._write(descriptor, data)
                if sync:
                    self._sync(descriptor)
            finally:
                os.close(descriptor)

    def put(self, blob: Blob, data: bytes) -> None:
        """Store a blob, unless it is there. Raises as `commit`."""
        path = self.path.parent / blob.path
        if not path.exists():
            self._store(path, data)
        # Not before: a part that is uploaded meanwhile would find no file, and take it for uploaded.
        if self._note_blobs:
            self.blobs.append(blob)
        # Also where another trajectory stored it: that one may not have synced it yet.
        self._unsynced |= {path, path.parent}

    def _store(self, path: Path, data: bytes) -> None:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            draft.rename(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise failure(path, error) from error

    def _make(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        except FileExistsError:
            raise FailedPrecondition(
                f"trajectory {self.path} is there already; an attempt has a name of its own"
            ) from None
        except OSError as error:
            raise failure(self.path, error) from error
        self._made = True
        self._unsynced.add(self.path.parent)

    def _write(self, descriptor: int, data: bytes) -> None:
        view, at = memoryview(data), self.size
        try:
            while view:
                written = os.pwrite(descriptor, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            os.ftruncate(descriptor, self.size)
            raise failure(self.path, error) from error
        self.size = at

    def _sync(self, descriptor: int) -> None:
        try:
            while self._unsynced:
                _sync_path(self._unsynced.pop())
            os.fdatasync(descriptor)
        except OSError as error:
            # The kernel may have dropped the pages that failed, so a later sync that succeeds proves nothing.
            self._dead = failure(self.path, error)
            raise self._dead from error


def _sync_path(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a blob that was uploaded meanwhile
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
