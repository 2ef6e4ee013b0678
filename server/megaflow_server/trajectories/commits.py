"""Group commit: what many trajectories have to write goes to the disk together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeAlias

from megaflow.errors import FailedPrecondition, MegaflowError, Unavailable
from megaflow_server.trajectories.writer import TrajectoryWriter

__all__ = ["Committer", "Durability"]

Durability: TypeAlias = Literal["commit", "interval", "close"]
"""When a trajectory is synced to the disk: with every group commit; at most every `sync_every` seconds; when it is
closed. What was committed survives the death of the process in any case; what was synced, that of the machine."""

_Batch: TypeAlias = list[tuple[TrajectoryWriter, list[bytes], bool]]
_Result: TypeAlias = tuple[TrajectoryWriter, int, MegaflowError | None]


class Committer:
    """Writes what its writers have pending, all of them in one go, in threads.

    Args:
        durability: see `Durability`.
        linger: seconds that records wait for company, unless somebody flushes: what a killed process loses.
        sync_every: seconds between two syncs of a trajectory, for `interval`.
        threads: files that are synced at once; their syncs share the file system's journal commits.
    """

    def __init__(
        self,
        durability: Durability = "interval",
        *,
        linger: float = 0.05,
        sync_every: float = 1.0,
        threads: int = 4,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._durability = durability
        self._linger = linger
        self._sync_every = sync_every
        self._clock = clock
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="trajectories")
        self._dirty: dict[TrajectoryWriter, None] = {}
        self._synced: dict[TrajectoryWriter, float] = {}
        self._timers: dict[TrajectoryWriter, asyncio.TimerHandle] = {}
        self._urgent = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def later(self, writer: TrajectoryWriter) -> None:
        """Commit what this writer has, with others, soon. Raises FailedPrecondition once this is closed."""
        if self._closed:
            raise FailedPrecondition(f"trajectory {writer.file.path}: its store is closed")
        self._dirty[writer] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def now(self, writer: TrajectoryWriter) -> None:
        """Commit without waiting for company."""
        self._urgent.set()
        self.later(writer)

    def forget(self, writer: TrajectoryWriter) -> None:
        """This writer is closed."""
        self._synced.pop(writer, None)
        if timer := self._timers.pop(writer, None):
            timer.cancel()

    async def close(self) -> None:
        """Finish what is under way, and end the threads."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        if self._task is not None:
            await self._task
        await asyncio.to_thread(self._pool.shutdown)

    async def _run(self) -> None:
        """Until nothing is dirty; a writer whose commit failed stays out until it is asked for again."""
        loop = asyncio.get_running_loop()
        while self._dirty:
            await self._company()
            dirty, self._dirty = list(self._dirty), {}
            batch = [(each, each.taken(), self._due(each)) for each in dirty]
            share = -(-len(batch) // self._threads)
            parts = [batch[i : i + share] for i in range(0, len(batch), share)]
            for results in await asyncio.gather(
                *(loop.run_in_executor(self._pool, _commit, part) for part in parts)
            ):
                for writer, count, error in results:
                    writer.committed(count, error)
        self._task = None

    async def _company(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._urgent.wait(), self._linger)
        self._urgent.clear()

    def _due(self, writer: TrajectoryWriter) -> bool:
        if self._durability != "interval":
            return self._durability == "commit"
        now = self._clock()
        left = self._synced.setdefault(writer, now) + self._sync_every - now
        if left > 0:
            if writer not in self._timers:  # nobody may write to it any more
                self._timers[writer] = asyncio.get_running_loop().call_later(
                    left, self._sync_later, writer
                )
            return False
        self._synced[writer] = now
        return True

    def _sync_later(self, writer: TrajectoryWriter) -> None:
        del self._timers[writer]
        self.later(writer)


def _commit(batch: _Batch) -> Sequence[_Result]:
    """Write all files, then sync all: the first sync's journal commit carries the others' too."""
    results: list[_Result] = []
    for writer, pieces, _ in batch:
        results.append((writer, len(pieces), _attempt(writer, pieces, sync=False)))
    for index, ((writer, _, sync), (_, count, error)) in enumerate(
        zip(batch, results, strict=True)
    ):
        if error is not None:
            continue
        if sync and (failed := _attempt(writer, (), sync=True)) is not None:
            results[index] = (writer, count, failed)
        elif writer.upload is not None:
            writer.upload.offer(writer.file)
    return results


def _attempt(
    writer: TrajectoryWriter, pieces: Sequence[bytes], *, sync: bool
) -> MegaflowError | None:
    try:
        writer.file.commit(pieces, sync=sync)
    except MegaflowError as error:
        return error
    except Exception as error:
        # Whoever waits for this must hear of it; nothing else would.
        return Unavailable(f"trajectory {writer.file.path} cannot be written: {error!r}")
    return None
