"""The bytes of a trajectory file: a preamble, then frames, each with two checksums. No input or output here.

```
preamble  magic 8, version 4, file id 4, CRC of these 4                        20 bytes
frame     sync 4, file id 4, number 4, length 4, CRC of the payload 4,
          kind 1, zeros 3, CRC of the header so far 4; then the payload        28 bytes and the payload
```

Integers are little-endian, CRCs are CRC-32 as zlib has it. Numbers count from 0 without gaps. The file id is random:
a payload that quotes frames of another trajectory is never taken for frames of this one.

A header has a checksum of its own, so the length of a record whose payload is damaged is known: it alone is dropped.
Where a header is damaged, reading goes on at the next sync mark whose header and payload are whole. What is dropped
is always said; what is left over at the end of a file is a torn tail.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from megaflow.errors import InvalidArgument

__all__ = [
    "FRAME_BYTES",
    "MAX_PAYLOAD",
    "PREAMBLE_BYTES",
    "VERSION",
    "Dropped",
    "Frame",
    "Scanner",
    "frame",
    "preamble",
]

VERSION: Final = 1
# Bytes of one payload. Arrays of any size lie beside the file; a record that outgrows this is a mistake.
MAX_PAYLOAD: Final = 256 << 20

# As PNG's: not text, and cut or mangled by whatever treats it as text.
_MAGIC: Final = b"\x89MFT\r\n\x1a\n"
_SYNC: Final = b"\xf5MF\x01"
_PREAMBLE: Final = struct.Struct("<8sII")
_HEADER: Final = struct.Struct("<4sIIIIB3s")
_CRC: Final = struct.Struct("<I")
_ZEROS: Final = bytes(3)

PREAMBLE_BYTES: Final = _PREAMBLE.size + _CRC.size
FRAME_BYTES: Final = _HEADER.size + _CRC.size


def preamble(file_id: int) -> bytes:
    """How a file begins."""
    head = _PREAMBLE.pack(_MAGIC, VERSION, file_id)
    return head + _CRC.pack(zlib.crc32(head))


def frame(kind: int, number: int, payload: bytes, file_id: int) -> bytes:
    """One record's bytes. Raises InvalidArgument for a payload over `MAX_PAYLOAD`."""
    if len(payload) > MAX_PAYLOAD:
        raise InvalidArgument(
            f"a trajectory record of {len(payload)} bytes; at most {MAX_PAYLOAD} fit into one: "
            "store what is large as a blob"
        )
    crc = zlib.crc32(payload)
    head = _HEADER.pack(_SYNC, file_id, number, len(payload), crc, kind, _ZEROS)
    return b"".join((head, _CRC.pack(zlib.crc32(head)), payload))


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole record; `end` is where the next one begins in the file."""

    kind: int
    number: int
    payload: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """What could not be read.

    Attributes:
        offset: where it begins in the file; `size` is its length there, 0 for records that are not there.
        torn: it is the end of the file: a writer that was killed leaves this, and nothing else.
        reason: what was wrong with it.
    """

    offset: int
    size: int
    torn: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.size} bytes from byte {self.offset} on: {self.reason}"


@dataclass(frozen=True, slots=True)
class _Head:
    file_id: int
    number: int
    length: int
    crc: int
    kind: int


class Scanner:
    """Finds the frames in bytes that come in pieces; holds one record and one piece at most.

    `feed` it bytes, take what `frames` has, and `finish` when there are no more.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0  # in _data; what is before it is read
        self._offset = 0  # in the file, of _data[0]
        self._file_id: int | None = None
        self._begun = False
        self._number = -1
        self._lost: int | None = None  # in the file, where what cannot be read begins
        self._reason = ""
        self._anything = False

    @property
    def fed(self) -> int:
        """Bytes fed so far: where the next piece belongs in the file."""
        return self._offset + len(self._data)

    @property
    def file_id(self) -> int | None:
        """What the preamble or, where it is damaged, the first whole frame says."""
        return self._file_id

    def feed(self, data: bytes) -> None:
        """More of the file."""
        if self._at:
            del self._data[: self._at]
            self._offset += self._at
            self._at = 0
        self._data += data

    def rewind(self) -> None:
        """Forget bytes of which nothing is known yet: `fed` is then where they begin."""
        if self._lost is None:
            self._offset += self._at
            self._at = 0
            self._data.clear()

    def frames(self) -> Iterator[Frame | Dropped]:
        """What is whole so far, and what turned out not to be."""
        if not self._begun and not self._begin():
            return
        while self._lost is None or self._seek():
            if len(self._data) - self._at < FRAME_BYTES:
                return
            head = self._head()
            if head is None:
                self._lose(f"what should be record {self._number + 1} has no valid header")
            elif len(self._data) - self._at < FRAME_BYTES + head.length:
                return
            else:
                yield from self._take(head)

    def finish(self) -> Dropped | None:
        """The torn tail, where there is one.

        Raises:
            InvalidArgument: no preamble and not one frame: this is something else.
        """
        start = self._offset + self._at if self._lost is None else self._lost
        size = self.fed - start
        if not self._anything and self.fed >= PREAMBLE_BYTES:
            raise InvalidArgument(
                "not a trajectory file: it neither begins as one nor has a record"
            )
        if size == 0:
            return None
        reason = "the record is not whole" if self._lost is None else self._reason
        return Dropped(start, size, True, reason)

    def _begin(self) -> bool:
        if len(self._data) < PREAMBLE_BYTES:
            return False
        self._begun = True
        head = bytes(self._data[: _PREAMBLE.size])
        (crc,) = _CRC.unpack_from(self._data, _PREAMBLE.size)
        magic, version, file_id = _PREAMBLE.unpack(head)
        if magic != _MAGIC or zlib.crc32(head) != crc:
            self._lose("the preamble is damaged")
        elif version != VERSION:
            raise InvalidArgument(
                f"a trajectory file of version {version}; this megaflow reads version {VERSION}: "
                "upgrade it"
            )
        else:
            self._anything = True
            self._file_id = file_id
            self._at = PREAMBLE_BYTES
        return True

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = self._offset + self._at
            self._reason = reason
        self._at += 1

    def _seek(self) -> bool:
        """To the next sync mark; False where there is none yet."""
        found = self._data.find(_SYNC, self._at)
        # A mark may have come in half.
        self._at = found if found >= 0 else max(self._at, len(self._data) - len(_SYNC) + 1)
        return found >= 0

    def _take(self, head: _Head) -> Iterator[Frame | Dropped]:
        """The frame that begins here, and what was lost before it."""
        size = FRAME_BYTES + head.length
        payload = bytes(self._data[self._at + FRAME_BYTES : self._at + size])
        start = self._offset + self._at
        whole = zlib.crc32(payload) == head.crc
        if not whole and self._lost is not None:
            self._lose("")
            return
        missing = head.number - self._number - 1
        self._at += size
        self._number, self._file_id, self._anything = head.number, head.file_id, True
        if self._lost is not None:
            yield Dropped(self._lost, start - self._lost, False, self._reason)
            self._lost = None
        elif missing:
            gap = f"{missing} records before record {head.number} are not there"
            yield Dropped(start, 0, False, gap)
        if whole:
            yield Frame(head.kind, head.number, payload, self._offset + self._at)
        else:
            reason = f"record {head.number} fails its checksum"
            yield Dropped(start, size, False, reason)

    def _head(self) -> _Head | None:
        (crc,) = _CRC.unpack_from(self._data, self._at + _HEADER.size)
        head = bytes(self._data[self._at : self._at + _HEADER.size])
        if zlib.crc32(head) != crc:
            return None
        sync, file_id, number, length, payload_crc, kind, zeros = _HEADER.unpack(head)
        if sync != _SYNC or zeros != _ZEROS or length > MAX_PAYLOAD or number <= self._number:
            return None
        if self._file_id is not None and file_id != self._file_id:
            return None
        return _Head(file_id, number, length, payload_crc, kind)
