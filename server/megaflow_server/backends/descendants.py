"""Which of this process's descendants belongs to which instance.

A child subreaper adopts every descendant whose own parent ended. The kernel does not say where such
an orphan came from, so each instance carries a mark, twice: as an unused resource limit, which
fork, exec, `setsid` and a cleared environment all keep, and which a zombie still shows; and in the
environment, where it is a path of marks, so that what an instance's own megaflow server left behind
is found as well.

This finds what does not hide: it is housekeeping, not a security boundary. A daemon that cleared its
environment and changed the limit outlives its instance. An orphan that changed the limit and ended before
it was ever looked at stays a zombie, since it could as well be a child that other code here waits for.
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MARK_VARIABLE", "Mark", "Process", "descendants", "kill", "new_mark", "owners"]

MARK_VARIABLE = "MEGAFLOW_INSTANCE"

# RLIMIT_LOCKS: the kernel has ignored it since 2.4.25, and hands it on like any other limit.
_RLIMIT_LOCKS = 10
_LIMIT_LINE = b"Max file locks"

_PROC = Path("/proc")


@dataclass(frozen=True)
class Mark:
    """What an instance's processes carry; `text` is one component of the environment's path."""

    number: int
    text: str

    def environment(self) -> str:
        """The value of MARK_VARIABLE for an instance of this process."""
        outer = os.environ.get(MARK_VARIABLE)
        return f"{outer}/{self.text}" if outer else self.text

    @contextmanager
    def on_children(self) -> Iterator[None]:
        """Mark what this process starts meanwhile; only in its environment where a kernel refuses (gVisor).

        Set here rather than on the new process, which on a busy machine has daemons before this process
        runs again. Another thread's children get it as well, hence the rule about sessions in `owners`.
        """
        soft, hard = resource.getrlimit(_RLIMIT_LOCKS)
        try:
            resource.setrlimit(_RLIMIT_LOCKS, (self.number, hard))
        except (OSError, ValueError):
            yield
            return
        try:
            yield
        finally:
            resource.setrlimit(_RLIMIT_LOCKS, (soft, hard))


def new_mark(instance_id: str) -> Mark:
    """A mark that no other instance has, of whatever server."""
    number = secrets.randbits(61) | 1 << 61  # fits a signed 64-bit integer, and is no limit in use
    return Mark(number, f"{instance_id}.{number:x}")


@dataclass(frozen=True)
class Process:
    """One line of the process table; `started` tells two processes with the same id apart."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.started

    @property
    def zombie(self) -> bool:
        return self.state in "ZX"


def descendants(root: int) -> dict[int, Process]:
    """Everything below `root` by process id, parents before their children."""
    children: dict[int, list[Process]] = {}
    for name in os.listdir(_PROC):
        if name.isdecimal():
            process = _read(int(name))
            if process is not None:
                children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    level = children.get(root, [])
    while level:
        found.update((process.pid, process) for process in level)
        level = [child for process in level for child in children.get(process.pid, [])]
    return found


def owners(
    processes: Mapping[int, Process],
    leaders: Mapping[int, str],
    marks: Iterable[tuple[str, Mark]],
    known: Mapping[tuple[int, int], str],
) -> dict[int, str]:
    """The instance that each process belongs to, for those that belong to one.

    An instance begins in a session of its own, and a process can only leave a session for a new one: what
    is in this process's own session is none of an instance's.

    Args:
        processes: the descendants of this process.
        leaders: instance by the id of its main process, which is a zombie at most: not yet reaped.
        marks: the mark of each instance.
        known: what was found before; a zombie has no environment any more.
    """
    numbers: dict[int, str] = {}
    texts: dict[str, str] = {}
    for instance, mark in marks:
        numbers[mark.number] = instance
        texts[mark.text] = instance
    own_session = os.getsid(0)
    found: dict[int, str] = {}
    for process in processes.values():
        if process.parent in processes:
            owner = found.get(process.parent)
        elif process.session == own_session:
            owner = None
        else:
            owner = (
                known.get(process.identity)
                or leaders.get(process.pid)
                or leaders.get(process.session)
                or leaders.get(process.group)
                or numbers.get(_limit(process.pid))
                or _by_environment(process.pid, texts)
            )
        if owner is not None:
            found[process.pid] = owner
    return found


def kill(process: Process) -> None:
    """SIGKILL exactly this process, never one that has taken over its id.

    Raises:
        PermissionError: it runs as another user.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = _read(process.pid)
        if now is not None and now.started == process.started:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _read(pid: int) -> Process | None:
    """The process table's line for a process; None for one that is gone."""
    content = _content(pid, "stat")
    if not content:
        return None
    # proc_pid_stat(5): the second field is the command in parentheses, and may hold any byte.
    fields = content[content.rindex(b")") + 2 :].split()
    parent, group, session = (int(value) for value in fields[1:4])
    return Process(pid, fields[0].decode(), parent, group, session, int(fields[19]))


def _limit(pid: int) -> int:
    """The number that `Mark.on_children` set; -1 where there is none."""
    for line in _content(pid, "limits").splitlines():
        if line.startswith(_LIMIT_LINE):
            soft = line[len(_LIMIT_LINE) :].split()[0]
            return int(soft) if soft.isdigit() else -1
    return -1


def _by_environment(pid: int, texts: Mapping[str, str]) -> str | None:
    prefix = MARK_VARIABLE.encode() + b"="
    for entry in _content(pid, "environ").split(b"\0"):
        if entry.startswith(prefix):
            for text in entry[len(prefix) :].decode("utf-8", "replace").split("/"):
                if text in texts:
                    return texts[text]
    return None


def _content(pid: int, name: str) -> bytes:
    """A file of /proc/PID; empty where the process is gone, or is not ours to look into."""
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
