"""Trajectories in a store that fsspec reaches: written here first, uploaded in parts.

The file on this machine is the trajectory until all of it is uploaded; then it is removed. A part is a range of
the file that ends with a record, named by where it begins, so that the parts one after the other are the file, and
a part that is uploaded twice is the same part. What was short enough to need no parts is one object.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from megaflow.errors import MegaflowError, Unavailable
from megaflow.trajectory.blobs import FOLDER
from megaflow.trajectory.places import SUFFIX, fsspec_at
from megaflow_server.trajectories.file import TrajectoryFile

__all__ = ["Upload", "Uploads"]


class Uploads:
    """The store at a URL.

    Args:
        part_bytes, part_seconds: a part is uploaded once it is this long, or this old.
        tries: of the last upload of a trajectory, with pauses that grow from `pause` seconds on.
    """

    def __init__(
        self,
        url: str,
        *,
        part_bytes: int = 8 << 20,
        part_seconds: float = 30.0,
        tries: int = 5,
        pause: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self.part_bytes = part_bytes
        self.part_seconds = part_seconds
        self.tries = tries
        self._pause = pause
        self._sleep = sleep
        self._files, self._root = fsspec_at(self.url)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="uploads")

    def upload(self, name: str, begun: int = 0) -> Upload:
        """The upload of one trajectory, of which `begun` bytes are there."""
        return Upload(self, name, begun)

    def begun(self, name: str) -> int:
        """Bytes of a trajectory that are there in parts, from the first on. Raises Unavailable."""
        folder = f"{self._root}/{name}{SUFFIX}.parts"
        end = 0
        for path, size in sorted(self._sizes(folder).items()):
            start = int(path.rpartition("/")[2])
            if start > end:
                break
            end = max(end, start + size)
        return end

    def put(self, name: str, data: bytes) -> None:
        """Store an object, in place of one of this name. Raises Unavailable."""
        path = f"{self._root}/{name}"
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)
        except Exception as error:  # each store has errors of its own
            raise Unavailable(f"{self.url}/{name} cannot be uploaded: {error!r}") from error

    def has(self, name: str) -> bool:
        """Whether there is such an object. Raises Unavailable."""
        try:
            return bool(self._files.exists(f"{self._root}/{name}"))
        except Exception as error:
            raise Unavailable(f"{self.url}/{name} cannot be looked up: {error!r}") from error

    def move(self, path: Path, name: str) -> None:
        """Store a file, unless the object is there, and remove it here. Raises Unavailable, FileNotFoundError."""
        data = path.read_bytes()
        if not self.has(name):
            self.put(name, data)
        path.unlink(missing_ok=True)

    def again(self, what: Callable[[], None]) -> None:
        """Do it, up to `tries` times; raises what the last one raised."""
        for count in range(1, self.tries + 1):
            try:
                return what()
            except MegaflowError:
                if count == self.tries:
                    raise
                self._sleep(random.uniform(0, self._pause * 2**count))

    def later(self, what: Callable[[], None]) -> None:
        """Do it in a thread of the uploads' own."""
        self._pool.submit(what)

    def close(self) -> None:
        """Finish what is under way."""
        self._pool.shutdown()

    def _sizes(self, folder: str) -> dict[str, int]:
        try:
            self._files.invalidate_cache()
            listed: list[Any] = self._files.ls(folder, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise Unavailable(f"{self.url} cannot be listed: {error!r}") from error
        return {each["name"]: each["size"] for each in listed if each["type"] == "file"}


class Upload:
    """One trajectory's way into the store. Attributes: error: why the last try failed, None where it did not."""

    def __init__(self, uploads: Uploads, name: str, begun: int) -> None:
        self.error: MegaflowError | None = None
        self._uploads = uploads
        self._name = name
        self._folder = name.rpartition("/")[0]
        self._done = begun
        self._lock = threading.Lock()
        self._busy = False
        self._last = time.monotonic()

    def offer(self, file: TrajectoryFile) -> None:
        """The file has grown: upload a part if it is time for one. Its failure is tried again with the next."""
        waiting = file.size - self._done
        old = time.monotonic() - self._last >= self._uploads.part_seconds
        if waiting > 0 and not self._busy and (waiting >= self._uploads.part_bytes or old):
            self._busy = True
            self._uploads.later(lambda: self._background(file))

    def finish(self, file: TrajectoryFile) -> None:
        """Upload the rest, and remove the file here.

        Raises:
            Unavailable: it stays here; the error says where.
        """
        with self._lock:
            try:
                self._uploads.again(lambda: self._advance(file, last=True))
            except MegaflowError as error:
                self.error = error
                raise Unavailable(
                    f"{error.message}; tried {self._uploads.tries} times. The trajectory is kept at "
                    f"{file.path} and uploaded when the server starts again"
                ) from error
            file.path.unlink(missing_ok=True)

    def _background(self, file: TrajectoryFile) -> None:
        with self._lock:
            try:
                self._advance(file, last=False)
                self.error = None
            except (MegaflowError, OSError) as error:
                self.error = error if isinstance(error, MegaflowError) else Unavailable(f"{error}")
            finally:
                self._last = time.monotonic()
                self._busy = False

    def _advance(self, file: TrajectoryFile, *, last: bool) -> None:
        size = file.size
        self._send_blobs(file)
        if size <= self._done:
            return
        with open(file.path, "rb") as opened:
            opened.seek(self._done)
            while self._done < size:
                # Not in one piece, however much has come together while the store was away.
                data = opened.read(min(4 * self._uploads.part_bytes, size - self._done))
                whole = last and self._done == 0 and len(data) == size
                part = f"{self._name}{SUFFIX}"
                self._uploads.put(part if whole else f"{part}.parts/{self._done:016d}", data)
                self._done += len(data)

    def _send_blobs(self, file: TrajectoryFile) -> None:
        while file.blobs:
            blob = file.blobs[0]
            local = file.path.parent / blob.path
            name = f"{self._folder}/{blob.path}" if self._folder else blob.path
            # Gone from here: another trajectory that names it has uploaded it.
            with contextlib.suppress(FileNotFoundError):
                self._uploads.move(local, name)
            file.blobs.pop(0)


def leftover_blobs(folder: Path) -> list[Path]:
    """The blobs in a folder of trajectories."""
    return [path for path in (folder / FOLDER).glob("*/*") if not path.name.startswith(".")]
