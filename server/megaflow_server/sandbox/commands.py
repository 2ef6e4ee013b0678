"""A command in a sandbox, from its order to its end: on its own, or in a shell."""

from __future__ import annotations

from dataclasses import dataclass

from megaflow.errors import DeadlineExceeded
from megaflow.sandbox import Output
from megaflow_server.sandbox.frames import Frame, ProtocolError
from megaflow_server.sandbox.jobs import GRACE, NEVER, Job, Opening, Place, as_bytes
from megaflow_server.sandbox.scripts import as_format, quoted

__all__ = ["Command", "Ended"]

# A command that takes longer than this may fill a pipe, so relays begin to read. Most take less, and then
# cost no process but their own and two that send.
RELAY_AFTER = 0.01
# After SIGKILL.
GIVE_UP = 5.0
# What holds a command's pipes this long after its end was left in the background.
VOID_AFTER = 0.1
# What a relay keeps at the least of either end.
_PART_LEAST = 4096


@dataclass(frozen=True)
class Ended:
    """How a command ended; `no_folder` and `no_shell` say that it never began."""

    exit_code: int
    stdout: Output
    stderr: Output
    timed_out: bool = False
    no_folder: bool = False
    no_shell: bool = False


class Command(Job):
    """A command, on its own or in a shell.

    Args:
        shell: the number of the shell that runs it; None for one of its own in `place`.
        timeout: seconds from when it could be handed out, until then included.
    """

    def __init__(
        self,
        command: str,
        *,
        limit: int,
        timeout: float | None = None,
        place: Place | None = None,
        shell: Opening | None = None,
    ) -> None:
        self._command = as_bytes(command)
        self._limit = limit
        self._timeout = timeout
        self._place = place or Place()
        self._shell = shell
        self._expires = NEVER
        self._exit: tuple[int, str] | None = None
        self._outputs: dict[str, Output] = {}
        self._relay_at = self._void_at = NEVER
        self._steps: list[tuple[float, str]] = []  # what is done to one that is late
        self._timed_out = False

    def before(self) -> bytes:
        if self._shell is None:
            return b""
        text = b"mf_c=" + quoted(self._command) + b"\n"
        return b"mf_put %d s %s\n" % (self.number, as_format(text))

    def order(self) -> bytes:
        if self._shell is not None:
            return b"mf_input %d\n" % self._shell.number
        return self._place.words() + b"c=" + quoted(self._command) + b"\nmf_exec\n"

    def wait(self, now: float) -> None:
        if self._timeout is not None:
            self._expires = now + self._timeout

    def expires(self) -> float:
        return self._expires

    def begin(self, now: float) -> None:
        self._relay_at = now + RELAY_AFTER
        if self._timeout is not None:
            self._end_at(self._expires)

    def stop(self, now: float) -> None:
        """Nobody waits for it any more: its time is over."""
        if not self._timed_out:
            self._steps.clear()
            self._end_at(now)

    def _end_at(self, when: float) -> None:
        steps = [(0.0, "TERM"), (GRACE, "KILL"), (GRACE + GIVE_UP, "give up")]
        if self._shell is not None:
            # Each SIGTERM ends one of the functions that a shell is in.
            steps[1:1] = [(after, "TERM") for after in (0.1, 0.3, 0.6, 1.0, 1.5)]
            steps[-1:] = [(2 * GRACE, "shell"), (2 * GRACE + GIVE_UP, "give up")]
        self._steps = [(when + after, step) for after, step in steps]

    def due(self) -> float:
        step = self._steps[0][0] if self._steps else NEVER
        return min(self._relay_at, self._void_at, step)

    def advance(self, now: float) -> bytes:
        text = b""
        if now >= self._relay_at:
            self._relay_at = NEVER
            text += b"mf_relays %d %d\n" % (self.number, max(_PART_LEAST, self._limit // 2))
        if now >= self._void_at:
            self._void_at = NEVER
            text += b"mf_void %d\n" % self.number
        while self._steps and now >= self._steps[0][0]:
            text += self._strike(self._steps.pop(0)[1])
        return text

    def _strike(self, step: str) -> bytes:
        self._timed_out = True
        if step == "give up":
            self.fail(
                DeadlineExceeded(
                    f"the command is still there {GIVE_UP:g} s after SIGKILL, which followed its timeout of "
                    f"{self._timeout} s: it may be stuck in a system call, or run as another user"
                )
            )
            return b""
        if self._shell is None:
            return b"mf_kill %d %s\n" % (self.number, step.encode())
        if step == "shell":
            return b"mf_kill %d KILL\n" % self._shell.number
        return b"mf_sweep %d %d %s\n" % (self._shell.number, self.number, step.encode())

    def rest(self, now: float) -> None:
        self._relay_at = NEVER
        self._void_at = now + VOID_AFTER
        # One that was told to end may have left part of its group at it.
        timed_out = self._timed_out and self._shell is None
        self._steps = [step for step in self._steps if timed_out and step[1] == "KILL"]

    def rested(self) -> None:
        self._void_at = NEVER

    def take(self, frame: Frame, secret: bytes) -> None:
        if frame.kind in ("x", "y"):
            self._exit = frame.number(1), frame.words[2] if len(frame.words) > 2 else ""
        if frame.kind == "x":
            for name, blob in zip("oe", frame.blobs, strict=True):
                self._outputs[name] = _output(blob, len(blob), 0, secret, self._limit)
        elif frame.kind == "r":
            total, head = frame.number(2), frame.number(3)
            self._outputs[frame.words[1]] = _output(
                frame.blobs[0], total, head, secret, self._limit
            )
        elif frame.kind != "y":
            raise ProtocolError(f"{frame.kind} for a command")
        if self._exit is None or not {"o", "e"} <= set(self._outputs):
            return
        code, flag = self._exit
        self.outcome = Ended(
            code,
            self._outputs["o"],
            self._outputs["e"],
            timed_out=self._timed_out,
            no_folder=flag == "w",
            no_shell=flag == "g",
        )


def _output(raw: bytes, total: int, head: int, secret: bytes, limit: int) -> Output:
    """What a command wrote, from what its pipes gave: up to the marker, at most `limit` bytes of it.

    Args:
        total: how many bytes the pipe gave; what is missing in `raw` is missing after `head` bytes.
    """
    end = raw.find(secret + b"m")
    if end >= 0:
        total -= len(raw) - end
        raw = raw[:end]
    if total <= limit and total == len(raw):
        return Output(raw)
    first = (limit + 1) // 2
    if total > len(raw):
        first = min(first, head)
    last = min(limit - first, len(raw) - first)
    kept = raw[:first] + raw[len(raw) - last :]
    return Output(kept, omitted=max(0, total - len(kept)), cut=first)
