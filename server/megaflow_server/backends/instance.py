"""What a backend hands out: a handle on an instance, what happens to it, what runs and lies in it."""

from __future__ import annotations

import signal as signals
import socket
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import IO, Literal, NoReturn, Protocol

from megaflow.errors import FailedPrecondition
from megaflow_server.backends.spec import Network

__all__ = [
    "BareInstance",
    "Change",
    "Event",
    "Exit",
    "Image",
    "Instance",
    "InstanceState",
    "Stats",
    "Stream",
    "Terminal",
    "TerminalKind",
    "lacks",
    "unseen",
]


# What has become of a path.
Change = Literal["added", "changed", "deleted"]


class InstanceState(Enum):
    """Whether an instance still runs; one that ended never runs again."""

    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True)
class Exit:
    """How an instance ended: by an exit code, by a signal, or (both None) in a way nobody saw.

    Attributes:
        reason: why the backend or the kernel ended it, where that is known: the limit that it outgrew.
    """

    code: int | None = None
    signal: int | None = None
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self._how()}: {self.reason}" if self.reason else self._how()

    def _how(self) -> str:
        if self.code is not None:
            return f"exit code {self.code}"
        if self.signal is None:
            return "exit status unknown"
        try:
            return f"signal {self.signal} ({signals.Signals(self.signal).name})"
        except ValueError:
            return f"signal {self.signal}"


@dataclass(frozen=True)
class Event:
    """Something that happened to an instance; `exit` is there for "exited" alone."""

    instance: str
    kind: Literal["running", "exited"]
    exit: Exit | None = None


@dataclass(frozen=True)
class Stats:
    """What an instance uses at the moment; None where nobody counts it.

    Attributes:
        cpu_seconds: processor time since its start.
        memory: bytes, without what the kernel would give back at once.
        memory_peak: the most bytes so far.
        pids: processes and threads.
        disk: bytes written to its own file system, and all that lies in its volumes.
    """

    cpu_seconds: float
    memory: int
    pids: int
    memory_peak: int | None = None
    disk: int | None = None


@dataclass(frozen=True)
class Image:
    """An image that a commit made.

    Attributes:
        labels: what it was labelled with.
        size: bytes that it has beyond what its instance was made of; 0 where nobody counts.
    """

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    size: int = field(default=0, compare=False)


class Stream(Protocol):
    """Standard input and output of one program in an instance; its standard error is apart.

    For one reader and one writer at a time. Neither side holds more than some 256 KiB: what is not
    read makes the program wait, what it does not read makes `drain` wait.
    """

    @property
    def errors(self) -> bytes:
        """The last 4 KiB of its standard error so far: for messages."""

    async def read(self) -> bytes:
        """The next bytes of its standard output, as soon as there are some; b"" at its end.

        Raises:
            Unavailable: the connection broke; whether the program lives on is not known.
        """

    def write(self, data: bytes) -> None:
        """Send to its standard input, in order; what an ended program does not read is dropped."""

    async def drain(self) -> None:
        """Return once most of what was written is on its way.

        Raises:
            Unavailable: the connection broke.
        """

    async def close(self) -> None:
        """End its input, and hear no more of it; a program that goes on ends with its instance."""

    async def wait(self) -> Exit:
        """How the program ended; there after `read` gave b"". `Exit()` where nobody knows any more."""


@dataclass(frozen=True)
class TerminalKind:
    """What a program's terminal is like at its start; `name` is its $TERM."""

    rows: int = 24
    columns: int = 80
    name: str = "xterm"


class Terminal(Protocol):
    """A program at a terminal of its own in an instance: what it shows and what is typed are bytes of one stream each.

    For one reader and one writer at a time, bounded as a `Stream` is.
    """

    async def read(self) -> bytes:
        """What it shows next, as soon as there is some; b"" at its end.

        Raises:
            Unavailable: the connection broke.
        """

    def write(self, data: bytes) -> None:
        """Type; what an ended program does not read is dropped."""

    async def drain(self) -> None:
        """As `Stream.drain`."""

    async def resize(self, rows: int, columns: int) -> None:
        """The terminal has another size now, which its program is told; nothing where that has ended."""

    async def wait(self) -> Exit:
        """How the program ended; there after `read` gave b""."""

    async def close(self) -> None:
        """Hang up: a program that has not ended gets SIGHUP, with all that it started and that stayed with it."""


class Instance(Protocol):
    """A handle on what a backend started; it stays readable after the instance has ended."""

    @property
    def id(self) -> str: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def pid(self) -> int | None:
        """The process id on this host, for messages; None where the backend has no such thing."""

    @property
    def disk_limit(self) -> int | None:
        """Bytes that it may write, with those of the snapshots that it came of; None where nobody looks."""

    @property
    def volumes(self) -> Sequence[str]:
        """Folders that `changes` does not look into and `commit` leaves out: what an image calls VOLUME."""

    @property
    def blind(self) -> str | None:
        """Why `changes` may leave something out, in words; None where it does not."""

    @property
    def state(self) -> InstanceState: ...

    async def wait(self) -> Exit:
        """How it ended, as soon as it has; a cancelled wait leaves the instance alone."""

    async def open_stream(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> Stream:
        """Run a program in it, beside its main process; needs "streams".

        Args:
            user: None for the instance's own.
            environ: laid over the instance's own.
            directory: None for the instance's own.

        Raises:
            InvalidArgument: there is no such program, user or directory in it.
            FailedPrecondition: it has ended, its profile forbids this user, or "streams" is lacking.
        """

    async def open_terminal(
        self,
        argv: Sequence[str],
        kind: TerminalKind,
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> Terminal:
        """Run a program at a terminal in it; needs "terminals". Else as `open_stream`."""

    async def end_programs(self) -> bool:
        """Kill all that runs in it but its main process, whether or not that lets it; needs "ending".

        Returns:
            Whether nothing is left, as seen from outside of it.

        Raises:
            FailedPrecondition: it has ended.
        """

    async def put(self, directory: str, tar: IO[bytes]) -> None:
        """Unpack a tar into a folder of it; needs "copy". `tar` is read in another thread.

        Raises:
            NotFound: there is no such folder in it.
        """

    async def get(self, path: str, tar: IO[bytes], *, most: int) -> None:
        """Pack a file or folder of it as a tar, into a file; needs "copy".

        The tar's paths begin with the last part of `path`.

        Raises:
            NotFound: there is no such path in it.
            ResourceExhausted: the tar has more than `most` bytes.
        """

    async def commit(self, labels: Mapping[str, str]) -> Image:
        """An image of its file system, but for its volumes, as it is now; its processes are paused. Needs "commit"."""

    async def changes(self) -> Mapping[str, Change]:
        """Where its file system differs from what it was made of, by absolute path; needs "inspect".

        Something may be in it that is what it was; and where `blind` says so, something may be left out.
        A folder in which something differs is a changed one. File systems in memory and volumes are not looked at.
        """

    async def own_files(self) -> Mapping[str, str]:
        """What its backend itself writes in it and `changes` leaves out, by path; needs "inspect".

        Each in a line that stays the same as long as nobody else writes to it.
        """

    async def attributes(self, path: str) -> str:
        """A digest of the extended attributes of what is at a path; "" for none. Needs "inspect"."""

    async def programs(self) -> Sequence[str]:
        """The command lines of the processes in it; needs "inspect".

        Raises:
            FailedPrecondition: it has ended.
        """

    async def reach(self, network: Network) -> None:
        """From now on it reaches this and nothing else; what it has open to elsewhere breaks. Needs "reach".

        Raises:
            FailedPrecondition: it has ended, or its profile forbids this.
        """

    async def listen(self, port: int) -> socket.socket:
        """A socket that listens at its loopback; port 0 is any that is free. Needs "listen".

        Raises:
            FailedPrecondition: it has ended, or something in it listens there.
        """

    async def stats(self) -> Stats:
        """What it uses; needs "stats".

        Raises:
            FailedPrecondition: it has ended.
        """


class BareInstance(ABC):
    """What an instance's backend may lack, lacking: each of these is a FailedPrecondition."""

    backend_name: str
    disk_limit: int | None = None
    volumes: Sequence[str] = ()
    blind: str | None = None

    async def open_stream(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> Stream:
        lacks(self.backend_name, "streams")

    async def open_terminal(
        self,
        argv: Sequence[str],
        kind: TerminalKind,
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> Terminal:
        lacks(self.backend_name, "terminals")

    async def end_programs(self) -> bool:
        lacks(self.backend_name, "ending")

    async def put(self, directory: str, tar: IO[bytes]) -> None:
        lacks(self.backend_name, "copy")

    async def get(self, path: str, tar: IO[bytes], *, most: int) -> None:
        lacks(self.backend_name, "copy")

    async def commit(self, labels: Mapping[str, str]) -> Image:
        lacks(self.backend_name, "commit")

    async def changes(self) -> Mapping[str, Change]:
        lacks(self.backend_name, "inspect")

    async def own_files(self) -> Mapping[str, str]:
        lacks(self.backend_name, "inspect")

    async def attributes(self, path: str) -> str:
        lacks(self.backend_name, "inspect")

    async def programs(self) -> Sequence[str]:
        lacks(self.backend_name, "inspect")

    async def reach(self, network: Network) -> None:
        lacks(self.backend_name, "reach")

    async def listen(self, port: int) -> socket.socket:
        lacks(self.backend_name, "listen")

    async def stats(self) -> Stats:
        lacks(self.backend_name, "stats")


def unseen(volumes: Sequence[str]) -> str | None:
    """What an instance with volumes is blind for."""
    if not volumes:
        return None
    return f"its image declares {', '.join(volumes)} a VOLUME, which is not compared; build the image without"


def lacks(backend: str, capability: str) -> NoReturn:
    """Raise the FailedPrecondition for a capability that a backend lacks."""
    raise FailedPrecondition(
        f"the {backend} backend has no {capability!r}; choose a backend that has it"
    )
