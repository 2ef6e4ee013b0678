"""The contract of a sandbox: what an environment is given to run commands and keep files in.

A sandbox is a process tree or container of its own; the environment's code stays outside it. Whoever declares
a parameter `sandbox` in an environment's constructor gets one of these, for as long as its session lives.
`megaflow.testing.sandboxes.SandboxContract` is this contract as tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Protocol, Self

from megaflow.sandbox_request import Phase

__all__ = ["OUTPUT_LIMIT", "READ_LIMIT", "ExecResult", "Output", "Sandbox", "Shell"]

# Bytes of each output that a result keeps, unless asked otherwise; and of a file that is read.
OUTPUT_LIMIT = 1 << 20
READ_LIMIT = 64 << 20


class Output(bytes):
    """What a command wrote to one of its outputs: as bytes, without what was left out of the middle.

    Attributes:
        omitted: how many bytes were left out.
        cut: where: `output[:output.cut]` is how it began, `output[output.cut:]` how it ended.
    """

    omitted: int
    cut: int

    def __new__(cls, kept: bytes = b"", *, omitted: int = 0, cut: int | None = None) -> Self:
        self = super().__new__(cls, kept)
        self.omitted = omitted
        self.cut = len(kept) if cut is None else cut
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[bytes], dict[str, int]]:
        return (bytes(self),), {"omitted": self.omitted, "cut": self.cut}

    @property
    def text(self) -> str:
        """As UTF-8, U+FFFD for what is none; says how much was left out, where it was."""
        if not self.omitted:
            return self.decode("utf-8", "replace")
        head, tail = (
            part.decode("utf-8", "replace") for part in (self[: self.cut], self[self.cut :])
        )
        return f"{head}\n[{self.omitted} bytes left out]\n{tail}"


@dataclass(frozen=True)
class ExecResult:
    """How a command ended.

    Attributes:
        exit_code: 0 to 255, as a shell has it: 128 + n for a command that signal n ended.
        timed_out: it was ended because its time was over; the outputs are what it wrote until then.
    """

    exit_code: int
    stdout: Output
    stderr: Output
    timed_out: bool = False


class Shell(Protocol):
    """A shell that keeps its directory, variables and functions from one command to the next.

    One command at a time: a second one waits. Ends with `close`, with its sandbox, or by itself (`exit`).
    """

    def run(
        self, command: str, *, timeout: float | None = None, output_limit: int = OUTPUT_LIMIT
    ) -> ExecResult:
        """Run a command in it; see `Sandbox.exec`.

        A command that ends the shell has the shell's exit code. Out of time, what the command started is
        ended, and the shell stays, unless the shell itself is what runs (`while :; do :; done`).

        Raises:
            FailedPrecondition: the shell has ended.
        """

    def close(self) -> None:
        """End it, and what it started in the background, as a terminal that is closed does."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Sandbox(Protocol):
    """Runs commands and keeps files. May be used from several threads; calls run side by side.

    Every call raises SessionLost once the sandbox has died, also the calls that wait at that moment.
    Paths in the sandbox are absolute, or relative to its working directory.
    """

    def exec(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        """Run a command by `/bin/sh -c`, its input empty, in a session of its own.

        It is over when its shell ends: what it left in the background runs on, and what that writes later
        is thrown away. Out of time, its process group gets SIGTERM, and SIGKILL two seconds later.

        Args:
            timeout: seconds; None for no limit.
            cwd: None for the sandbox's own.
            env: laid over the sandbox's environment.
            user: None for the sandbox's own.
            output_limit: bytes kept of each output, half from its beginning and half from its end.

        Raises:
            InvalidArgument: a NUL byte, a command of over 128 KiB, a name in `env` that is none.
            NotFound: there is no folder `cwd`.
            FailedPrecondition: the sandbox lacks what this needs, or forbids this user.
            DeadlineExceeded: the command withstands SIGKILL.
        """

    def shell(
        self,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        interpreter: str = "/bin/sh",
    ) -> Shell:
        """A shell in a session of its own: `interpreter` is any that knows POSIX's language, as bash."""

    def read_file(self, path: str, *, user: str | None = None, limit: int = READ_LIMIT) -> bytes:
        """The content of a file.

        Raises:
            NotFound: there is none.
            InvalidArgument: it is a folder, or no regular file.
            FailedPrecondition: it may not be read.
            ResourceExhausted: it has more than `limit` bytes.
        """

    def write_file(self, path: str, data: bytes | str, *, user: str | None = None) -> None:
        """Make a file, or replace its content; folders on its way are made. Text is written as UTF-8.

        Raises:
            InvalidArgument: it is a folder.
            FailedPrecondition: it may not be written.
        """

    def upload(self, source: str | PathLike[str], target: str, *, user: str | None = None) -> None:
        """Copy a file to `target`, or what a folder holds into the folder `target`, with modes and links.

        Raises:
            NotFound: there is no `source` here.
        """

    def download(
        self,
        source: str,
        target: str | PathLike[str],
        *,
        user: str | None = None,
        limit: int = READ_LIMIT,
    ) -> None:
        """Copy a file or what a folder holds from the sandbox; nothing is written outside `target`.

        Raises:
            NotFound: there is no `source` in the sandbox.
            InvalidArgument: a link or name in it leads out of the folder.
            ResourceExhausted: it has more than `limit` bytes.
        """

    def enter(self, phase: Phase) -> None:
        """Begin a phase: from now on it reaches what its template says for that phase, and commands that name
        no user are run by that phase's.

        A sandbox begins in "setup". What runs on from an earlier phase reaches what this one does, as the user
        that it had; a shell keeps its user. Nothing runs on in "verifier": entering it begins with `end_processes`.

        Raises:
            InvalidArgument: there is no such phase.
        """

    def end_processes(self) -> None:
        """End everything that runs in it, shells and what was left in the background by whichever phase.

        It is done from outside, and what is asked for next is served by new processes: nothing that ran before can
        hinder it, or answer in its place.

        Raises:
            FailedPrecondition: something cannot be ended, or this kind of sandbox cannot do it.
        """

    def snapshot(self) -> str:
        """Keep the file system as it is now; gives the id that `restore` takes.

        Raises:
            FailedPrecondition: this kind of sandbox cannot.
        """

    def restore(self, snapshot: str) -> None:
        """Go back to a snapshot: a new instance, so that every process and shell is gone.

        Raises:
            NotFound: there is no such snapshot of this sandbox.
            FailedPrecondition: this kind of sandbox cannot.
        """
