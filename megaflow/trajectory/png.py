"""Frames as PNG: what a page can show, and what comes back to the last bit.

Written without filters and in one piece of zlib's; only this form is read back.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from megaflow.errors import InvalidArgument

__all__ = ["is_frame", "read", "write"]

_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_COLOURS: Final = {1: 0, 3: 2, 4: 6}  # channels: PNG's colour type
_HEADER: Final = struct.Struct(">IIBBBBB")
# Bytes of a frame: a PNG of 1 MiB could claim, and hold, a gigabyte of zeros.
_MOST: Final = 64 << 20


def is_frame(array: NDArray[Any]) -> bool:
    """Whether an array is height × width × (1, 3 or 4) of uint8, none of them 0, in at most 32 MiB."""
    return (
        array.dtype == np.uint8
        and array.ndim == 3
        and array.shape[2] in _COLOURS
        and 0 < array.nbytes <= _MOST // 2
    )


def write(array: NDArray[Any]) -> bytes:
    """The PNG of a frame."""
    height, width, channels = array.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, none
    lines[:, 1:] = array.reshape(height, -1)
    head = _HEADER.pack(width, height, 8, _COLOURS[channels], 0, 0, 0)
    body = zlib.compress(lines.data, 1)
    return _MAGIC + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def read(data: bytes) -> NDArray[Any]:
    """The frame in a PNG that `write` made. Raises InvalidArgument for any other."""
    start = len(_MAGIC) + 8
    end = start + _HEADER.size
    try:
        width, height, _, colour, *_ = _HEADER.unpack_from(data, start)
        channels = next(n for n, each in _COLOURS.items() if each == colour)
        (length,) = struct.unpack_from(">I", data, end + 4)
        size = height * (1 + width * channels)
        if size > _MOST:
            raise ValueError(f"{width} x {height} are too many")
        unpack = zlib.decompressobj()
        raw = unpack.decompress(data[end + 12 : end + 12 + length], size + 1)
        lines = np.frombuffer(raw, np.uint8).reshape(height, 1 + width * channels)
    except (struct.error, StopIteration, zlib.error, ValueError) as error:
        raise InvalidArgument(f"not a frame as trajectories store them: {error!r}") from None
    return lines[:, 1:].reshape(height, width, channels).copy()
