"""A place for trajectories, and the writers of those that are under way there."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megaflow.errors import InvalidArgument, MegaflowError
from megaflow.trajectory.places import SUFFIX
from megaflow_server.trajectories.commits import Committer, Durability
from megaflow_server.trajectories.file import TrajectoryFile
from megaflow_server.trajectories.uploads import Uploads, leftover_blobs
from megaflow_server.trajectories.writer import TrajectoryWriter

__all__ = ["TrajectoryStore"]

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class TrajectoryStore:
    """Where an event loop's trajectories are written.

    Args:
        url: a folder, as a path or `file://` URL; or any store that fsspec reaches, such as `s3://bucket/folder`.
        durability: when a trajectory is synced to the disk; see `Durability`.
        spool: for a store that is no folder, the folder in which trajectories are written until they are uploaded.
        clock: what records without a time are given.
        commit_options: of `Committer`: linger, sync_every, threads.
        upload_options: of `Uploads`: part_bytes, part_seconds, tries, pause.

    Raises:
        InvalidArgument: a remote store without a spool.
        FailedPrecondition: fsspec, or what it needs for this store, is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        durability: Durability = "interval",
        spool: Path | None = None,
        clock: Callable[[], float] = time.time,
        commit_options: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._clock = clock
        self._committer = Committer(durability, **(commit_options or {}))
        local = url.removeprefix("file://")
        self._uploads: Uploads | None = None
        if "://" in local:
            if spool is None:
                raise InvalidArgument(
                    f"trajectories in {url} need a folder on this machine to be written in first: "
                    "give spool"
                )
            self._uploads = Uploads(url, **(upload_options or {}))
            self._folder = spool
        else:
            self._folder = Path(local)

    def path(self, name: str) -> str:
        """Where readers find a trajectory, once it is closed."""
        return f"{self.url}/{name}{SUFFIX}"

    def writer(self, name: str) -> TrajectoryWriter:
        """A trajectory that begins.

        Args:
            name: letters, digits and `._-`, in folders where it has `/`; the folder is what blobs are shared in.

        Raises:
            InvalidArgument: the name is none. A name that is taken is refused by the first commit.
        """
        if not _NAME.fullmatch(name):
            raise InvalidArgument(
                f"trajectory name {name!r}: letters, digits and ._- only, in folders divided by /"
            )
        file = TrajectoryFile(self._folder / (name + SUFFIX), note_blobs=self._uploads is not None)
        upload = None if self._uploads is None else self._uploads.upload(name)
        return TrajectoryWriter(file, self._committer, upload, self._clock)

    async def recover(self) -> dict[str, MegaflowError | None]:
        """Upload what an earlier process left in the spool, torn tails cut off; by name, None or what failed.

        Call it before the first writer is made. Nothing is to be done for a folder.
        """
        return {} if self._uploads is None else await asyncio.to_thread(self._recover)

    async def close(self) -> None:
        """Finish what is under way; writers that are not closed are left as they are."""
        await self._committer.close()
        if self._uploads is not None:
            await asyncio.to_thread(self._uploads.close)

    def _recover(self) -> dict[str, MegaflowError | None]:
        assert self._uploads is not None
        results: dict[str, MegaflowError | None] = {}
        for path in sorted(self._folder.rglob(f"*{SUFFIX}")):
            name = path.relative_to(self._folder).as_posix().removesuffix(SUFFIX)
            try:
                self._blobs_of(path.parent)
                file = TrajectoryFile.resume(path)
                self._uploads.upload(name, self._uploads.begun(name)).finish(file)
                results[name] = None
            except MegaflowError as error:
                results[name] = error
        return results

    def _blobs_of(self, folder: Path) -> None:
        assert self._uploads is not None
        for path in leftover_blobs(folder):
            self._uploads.move(path, path.relative_to(self._folder).as_posix())
