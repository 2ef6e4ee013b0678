"""One attempt's trajectory, as who executes the attempt writes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from megaflow.errors import FailedPrecondition, MegaflowError
from megaflow.trajectory import blobs, frames, records
from megaflow.trajectory.blobs import Blob
from megaflow.trajectory.records import Record
from megaflow_server.trajectories.file import TrajectoryFile

if TYPE_CHECKING:
    from megaflow_server.trajectories.commits import Committer
    from megaflow_server.trajectories.uploads import Upload

__all__ = ["PENDING_BYTES", "TrajectoryWriter"]

# Bytes of one trajectory that may wait to be written; `append` waits beyond.
PENDING_BYTES = 1 << 20


class TrajectoryWriter:
    """Appends records to one trajectory; made by `TrajectoryStore.writer`.

    Records stand in the order in which `append` was called. One that `append` raised for is not in the trajectory;
    one that it took is written by the next group commit, and after an error by the next that succeeds.
    """

    def __init__(
        self,
        file: TrajectoryFile,
        committer: Committer,
        upload: Upload | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.file = file
        self.upload = upload
        self.pending: list[bytes] = []
        self.failed: MegaflowError | None = None
        self._committer = committer
        self._clock = clock
        self._bytes = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._served: list[asyncio.Future[None]] = []
        self._order = asyncio.Lock()
        self._closed = False

    async def append(self, record: Record) -> None:
        """Take a record; waits only where much is waiting to be written, or a large array is to be stored.

        Raises:
            InvalidArgument: the wire's values lack a part of it; the error has its path.
            ResourceExhausted: the disk is full. A later call tries again.
            Unavailable: the file cannot be written.
        """
        async with self._order:
            if self._closed:
                raise FailedPrecondition(f"trajectory {self.file.path} is closed")
            if self.failed is not None or self._bytes >= PENDING_BYTES:
                await self.flush()
            if record.time is None:
                record = replace(record, time=self._clock())
            if blobs.is_large(record):
                payload = await asyncio.to_thread(self._stored, blobs.snapshot(record))
            else:
                payload = records.encode(record)
            data = frames.frame(record.code, self.file.next_number, payload, self.file.file_id)
            self._committer.later(self)
            self.file.next_number += 1
            self.pending.append(data)
            self._bytes += len(data)

    async def blob(self, data: bytes, media_type: str) -> Blob:
        """Store an image or the like; `as_value()` of what it gives stands for it in a record. Raises as `append`."""
        blob = blobs.blob_of(data, media_type)
        await asyncio.to_thread(self.file.put, blob, data)
        return blob

    async def flush(self) -> None:
        """Until all records taken so far are written, and synced where the store says so. Raises as `append`."""
        if self.pending or self.failed is not None:
            done = asyncio.get_running_loop().create_future()
            self._committer.now(self)
            self._waiting.append(done)
            await done

    async def close(self) -> None:
        """Write and sync all, and upload it where the store is remote; after an error it may be tried again.

        Raises:
            Unavailable: it was not written, or not uploaded; the error says where it is kept.
            ResourceExhausted: the disk is full.
        """
        async with self._order:
            self._closed = True
            await self.flush()
            await asyncio.to_thread(self.file.commit, (), sync=True)
            if self.upload is not None:
                await asyncio.to_thread(self.upload.finish, self.file)
            self._committer.forget(self)

    def taken(self) -> list[bytes]:
        """For the committer: what is to be written now; who flushes from here on waits for the next."""
        self._served, self._waiting = self._waiting, []
        return list(self.pending)

    def committed(self, count: int, error: MegaflowError | None) -> None:
        """For the committer: the first `count` pending were written, or none for this error."""
        served, self._served = self._served, []
        self.failed = error
        if error is None:
            self._bytes -= sum(map(len, self.pending[:count]))
            del self.pending[:count]
        for done in served:
            if done.cancelled():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(type(error)(error.message, retry_after=error.retry_after))

    def _stored(self, record: Record) -> bytes:
        return records.encode(blobs.externalise(record, self.file.put))
