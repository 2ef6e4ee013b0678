"""What /proc says of workers, from outside: what their threads do, and what memory they take."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megaflow_server.backends.descendants import descendants
from megaflow_server.consumption import cpu_seconds, kilobytes

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Activity:
    """A process at one moment.

    Attributes:
        states: of its threads, as letters of proc_pid_stat(5), the main one's first.
        cpu: seconds of CPU time that it has used so far.
        faults: pages that it had to wait for the disk to get, so far.
        delays: seconds that each of its threads was ready to run and did not, so far.
    """

    states: str
    cpu: float
    faults: int
    delays: Mapping[int, float] = field(default_factory=dict)


def activity(pid: int) -> Activity | None:
    """What a process does; None where it is gone, or not to be seen."""
    tasks = _PROC / str(pid) / "task"
    fields = _stat(tasks.parent)
    try:
        threads = [int(name) for name in os.listdir(tasks) if int(name) != pid]
    except OSError:
        return None
    if fields is None:
        return None
    states, delays = fields[0].decode(), {pid: _delay(tasks / str(pid))}
    for thread in threads:
        one = _stat(tasks / str(thread))
        if one is not None:
            states += one[0].decode()
            delays[thread] = _delay(tasks / str(thread))
    return Activity(states, (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[9]), delays)


@dataclass(frozen=True)
class Usage:
    """What a process and its descendants take: bytes, processes, and the processor time so far."""

    memory: int
    processes: int
    cpu_seconds: float = 0.0


def usage(pids: Collection[int], *, exact_from: int) -> dict[int, Usage]:
    """What each of these children of this process takes, with all below it, swapped pages included.

    Pages that processes share are counted for each of them at first, which is quick. Where that comes to
    `exact_from` bytes, each counts its share only.
    """
    trees: dict[int, list[int]] = {pid: [] for pid in pids}
    roots: dict[int, int] = {}
    for process in descendants(os.getpid()).values():  # parents before their children
        root = process.pid if process.pid in trees else roots.get(process.parent)
        if root is not None and not process.zombie:
            roots[process.pid] = root
            trees[root].append(process.pid)
    found = {}
    for root, members in trees.items():
        memory = sum(kilobytes(pid, "status", b"VmRSS:", b"VmSwap:") for pid in members)
        if memory * 1024 >= exact_from and len(members) > 1:
            memory = sum(
                kilobytes(pid, "smaps_rollup", b"Pss:", b"SwapPss:")
                or kilobytes(pid, "status", b"VmRSS:", b"VmSwap:")
                for pid in members
            )
        found[root] = Usage(memory * 1024, len(members), cpu_seconds(members))
    return found


def _stat(folder: Path) -> list[bytes] | None:
    try:
        content = (folder / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the command in parentheses, and may hold any byte; the third comes first here.
    return content[content.rindex(b")") + 2 :].split()


def _delay(folder: Path) -> float:
    """The seconds that a thread has spent waiting for a CPU; 0 where the kernel does not count them."""
    try:
        return int((folder / "schedstat").read_bytes().split()[1]) / 1e9
    except OSError:
        return 0.0
