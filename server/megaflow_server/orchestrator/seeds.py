"""Numbers that follow from names: the same for a rerun, whatever was retried, and in whatever order."""

from __future__ import annotations

import hashlib

__all__ = ["fraction", "seed_of"]


def seed_of(job_seed: int, index: int, sample: int) -> int:
    """The seed of a sample of a job's task: below 2**31, which every environment takes."""
    return _bits("seed", job_seed, index, sample) >> 33


def fraction(*names: object) -> float:
    """A number in [0, 1) that looks drawn, for these names."""
    return _bits("fraction", *names) / 2**64


def _bits(*names: object) -> int:
    text = "\0".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
