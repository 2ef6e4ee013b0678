"""What a sandbox is asked to do, one class for each kind: its order, and what its frames mean.

Commands are in `commands`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from megaflow.errors import MegaflowError
from megaflow_server.sandbox.frames import Frame, ProtocolError
from megaflow_server.sandbox.scripts import as_format, quoted

__all__ = [
    "GRACE",
    "NEVER",
    "Block",
    "Job",
    "Opening",
    "Place",
    "Reading",
    "Sign",
    "Writing",
    "as_bytes",
]

# From SIGHUP to SIGKILL, and from SIGTERM to it.
GRACE = 2.0
NEVER = float("inf")


@dataclass(frozen=True)
class Place:
    """Where and with what a program starts."""

    directory: str = "."
    environ: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> bytes:
        exports = b" ".join(
            name.encode() + b"=" + quoted(as_bytes(value)) for name, value in self.environ.items()
        )
        body = b"export " + exports if exports else b":"
        return b"w=" + quoted(as_bytes(self.directory)) + b"\nmf_env() { " + body + b"; }\n"


@dataclass(frozen=True)
class Block:
    """Part of a file, or why there is none."""

    status: str
    data: bytes = b""


class Job:
    """One order. `number` is set when it is handed out, `outcome` when it is over."""

    number = 0
    outcome: object | None = None

    def order(self) -> bytes:
        """What a loop in the sandbox carries out."""
        raise NotImplementedError

    def before(self) -> bytes:
        """What main.sh carries out before it hands the order out."""
        return b""

    def take(self, frame: Frame, secret: bytes) -> None:
        """One of its frames; sets `outcome` with the last."""
        raise NotImplementedError

    def wait(self, now: float) -> None:
        """From now on it waits to be handed out."""

    def expires(self) -> float:
        """When waiting makes no sense any more."""
        return NEVER

    def begin(self, now: float) -> None:
        """It has been handed out."""

    def due(self) -> float:
        """When `advance` has something to do."""
        return NEVER

    def advance(self, now: float) -> bytes:
        """What main.sh is to carry out by now."""
        return b""

    def rest(self, now: float) -> None:
        """Its outcome is known, and what is left of it in the sandbox is waited for."""

    def rested(self) -> None:
        """Nothing is left of it, but perhaps of its process group."""

    def fail(self, error: MegaflowError) -> None:
        if self.outcome is None:
            self.outcome = error


class Sign(Job):
    """A sign of life, which takes no process in the sandbox and no loop; the outcome is True."""


class Opening(Job):
    """A shell, from its start to its end; the outcome is its exit code.

    `started` once commands can be handed to it, also where it never got to run and has ended.
    """

    started = False

    def __init__(self, interpreter: str, program: str, place: Place) -> None:
        self._interpreter = interpreter
        self._program = program
        self._place = place
        self._kill_at = NEVER

    def before(self) -> bytes:
        return b'mkfifo "$d/%d.i" "$d/%d.r"\n' % (self.number, self.number)

    def order(self) -> bytes:
        words = (
            b"i=" + quoted(as_bytes(self._interpreter)) + b" c=" + quoted(as_bytes(self._program))
        )
        return self._place.words() + words + b"\nmf_shell\n"

    def hang_up(self, now: float) -> bytes:
        """What main.sh carries out to end it."""
        self._kill_at = now + GRACE
        return b"mf_kill %d HUP\n" % self.number

    def due(self) -> float:
        return self._kill_at

    def advance(self, now: float) -> bytes:
        if now < self._kill_at:
            return b""
        self._kill_at = NEVER
        return b"mf_kill %d KILL\n" % self.number

    def rest(self, now: float) -> None:
        self._kill_at = NEVER

    def take(self, frame: Frame, secret: bytes) -> None:
        if frame.kind == "s":
            self.started = True
        elif frame.kind == "z":
            self.outcome = frame.number(1)
        else:
            raise ProtocolError(f"{frame.kind} for a shell")


class Reading(Job):
    """One block of a file."""

    def __init__(self, path: str, block: int) -> None:
        self._path = path
        self._block = block

    def order(self) -> bytes:
        return b"mf_read %s %d\n" % (quoted(as_bytes(self._path)), self._block)

    def take(self, frame: Frame, secret: bytes) -> None:
        if frame.kind != "d" or len(frame.words) < 2:
            raise ProtocolError(f"{frame.kind} for a file that is read")
        self.outcome = Block(frame.words[1], frame.blobs[0])


class Writing(Job):
    """A file's beginning, or what comes after what it has; the outcome is "ok", or what went wrong."""

    _PIECE = 8192  # bytes: the longest word that a shell is given

    def __init__(self, path: str, data: bytes, *, append: bool) -> None:
        self._path = path
        self._data = data
        self._append = append

    def before(self) -> bytes:
        pieces = range(0, max(1, len(self._data)), self._PIECE)
        return b"".join(
            b"mf_put %d d %s\n" % (self.number, as_format(self._data[at : at + self._PIECE]))
            for at in pieces
        )

    def order(self) -> bytes:
        return b"mf_write %s %s\n" % (quoted(as_bytes(self._path)), b"a" if self._append else b"''")

    def take(self, frame: Frame, secret: bytes) -> None:
        if frame.kind != "v" or len(frame.words) < 2:
            raise ProtocolError(f"{frame.kind} for a file that is written")
        self.outcome = " ".join(frame.words[1:])


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
