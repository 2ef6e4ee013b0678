"""Reading a trajectory, record by record, whether or not it is still being written."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Final

from megaflow.errors import DeadlineExceeded, InvalidArgument
from megaflow.trajectory import blobs, records
from megaflow.trajectory.blobs import Blob
from megaflow.trajectory.frames import Dropped, Frame, Scanner
from megaflow.trajectory.places import PARTS, SUFFIX, source_at
from megaflow.trajectory.records import KINDS, End, Record

__all__ = ["TrajectoryReader"]

_PIECE: Final = 256 << 10


def _codes(kinds: Collection[str]) -> set[int]:
    return {KINDS[kind].code for kind in kinds}


class TrajectoryReader:
    """One trajectory; memory for one record at a time, whatever its length.

    Args:
        path: its file, or its URL in a store that fsspec reaches.
        arrays: puts arrays and `data:` URLs that lie beside the trajectory back in place; without, references
            stand there.

    Attributes:
        name: of the attempt's file, without folder and suffix.
        dropped: what the last pass could not read, in order; see `damaged`.
        ended: whether the last pass came to the record that closes a trajectory.
    """

    def __init__(self, path: str | os.PathLike[str], *, arrays: bool = True) -> None:
        self.path = os.fspath(path)
        last = self.path.rstrip("/").rpartition("/")[2]
        self.name = last.removesuffix(PARTS).removesuffix(SUFFIX)
        self.dropped: list[Dropped] = []
        self.ended = False
        self._arrays = arrays
        self._source = source_at(self.path)

    @property
    def damaged(self) -> bool:
        """Whether the last pass dropped more than a torn tail."""
        return any(not each.torn for each in self.dropped)

    def __iter__(self) -> Iterator[Record]:
        """The records that are there now, from the first on."""
        return (record for _, record in self.numbered())

    def numbered(self, kinds: Collection[str] = KINDS.keys()) -> Iterator[tuple[int, Record]]:
        """The records that are there now, of these kinds, with their numbers; others are not decoded.

        Raises:
            InvalidArgument: it is no trajectory, or one of a newer version.
            NotFound, Unavailable: it is not there, or cannot be read.
        """
        scanner = self._begin()
        yield from self._pass(scanner, kinds)
        try:
            tail = scanner.finish()
        except InvalidArgument as error:
            raise InvalidArgument(f"{self.path}: {error.message}") from None
        if tail is not None:
            self.dropped.append(tail)

    def follow(self, *, poll: float = 0.2, timeout: float | None = None) -> Iterator[Record]:
        """The records from the first on, and those that are still to come, up to the end of the trajectory.

        Args:
            poll: seconds between two looks.
            timeout: seconds without a new record after which it gives up.

        Raises:
            DeadlineExceeded: `timeout` passed.
        """
        scanner = self._begin()
        last = time.monotonic()
        while not self.ended:
            for _, record in self._pass(scanner, KINDS.keys()):
                yield record
                last = time.monotonic()
            if not self.ended:
                self._check(last, timeout)
                time.sleep(poll)

    async def afollow(
        self, *, poll: float = 0.2, timeout: float | None = None
    ) -> AsyncIterator[Record]:
        """As `follow`, for an event loop: it reads in a thread."""
        scanner = self._begin()
        last = time.monotonic()
        while not self.ended:
            passing = self._pass(scanner, KINDS.keys())
            while (found := await asyncio.to_thread(next, passing, None)) is not None:
                yield found[1]
                last = time.monotonic()
            if not self.ended:
                self._check(last, timeout)
                await asyncio.sleep(poll)

    def load(self, blob: Blob) -> bytes:
        """A blob's bytes. Raises NotFound, and InvalidArgument where it holds something else."""
        return blob.check(self._source.blob(blob.path))

    def _begin(self) -> Scanner:
        self.dropped = []
        self.ended = False
        return Scanner()

    def _check(self, last: float, timeout: float | None) -> None:
        if timeout is not None and time.monotonic() - last > timeout:
            raise DeadlineExceeded(f"{self.path}: no new record for {timeout} s (timeout)")

    def _pass(self, scanner: Scanner, kinds: Collection[str]) -> Iterator[tuple[int, Record]]:
        # What was not whole is read again: a writer that took over may have cut it off and gone on.
        scanner.rewind()
        # A kind that this version does not know is an error, not a record to pass over.
        codes = _codes(kinds) | (set(range(256)) - _codes(KINDS))
        while data := self._source.read(scanner.fed, _PIECE):
            scanner.feed(data)
            try:
                for found in scanner.frames():
                    if isinstance(found, Dropped):
                        self.dropped.append(found)
                    elif (record := self._record(found, codes)) is not None:
                        yield found.number, record
            except InvalidArgument as error:
                raise InvalidArgument(f"{self.path}: {error.message}") from None

    def _record(self, found: Frame, codes: Collection[int]) -> Record | None:
        self.ended = found.kind == End.code
        if found.kind not in codes:
            return None
        try:
            record = records.decode(found.kind, found.payload)
        except InvalidArgument as error:
            raise InvalidArgument(f"record {found.number}: {error.message}") from None
        return blobs.internalise(record, self._load) if self._arrays else record

    def _load(self, blob: Blob) -> bytes:
        return self._source.blob(blob.path)
