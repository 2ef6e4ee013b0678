"""What processes use, as /proc has it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cpu_seconds", "kilobytes", "memory"]

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time of these, and of their children that have ended; of one that is gone, none."""
    return sum(map(_ticks, pids)) / _TICKS


def memory(pids: Iterable[int]) -> int:
    """Bytes, swapped ones included; what several share is counted for each."""
    return sum(kilobytes(pid, "status", b"VmRSS:", b"VmSwap:") for pid in pids) * 1024


def kilobytes(pid: int, name: str, *keys: bytes) -> int:
    """The sum of these lines of a file in /proc/PID; 0 where the process is gone."""
    try:
        content = (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in content.splitlines() if line.startswith(keys))


def _ticks(pid: int) -> int:
    try:
        content = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return 0
    # The second field is the command in parentheses, and may hold any byte; the third comes first here.
    fields = content[content.rindex(b")") + 2 :].split()
    return sum(map(int, fields[11:15]))
