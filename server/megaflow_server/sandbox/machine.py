"""One attached stream as a state machine: orders in, bytes out; bytes in, outcomes out.

It does no input or output and reads no clock but the one it is given, so that every order of events can be
played through in a test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from megaflow.errors import MegaflowError, ResourceExhausted, SessionLost
from megaflow_server.sandbox.commands import Command
from megaflow_server.sandbox.frames import Frame, FrameReader, ProtocolError
from megaflow_server.sandbox.jobs import Job, Opening, Sign
from megaflow_server.sandbox.scripts import NEEDS, as_format, missing, program

__all__ = ["LOOPS_MOST", "OUTPUT_LIMIT_MOST", "Machine"]

# Loops in the sandbox, each with one order at a time: how many at first, and at most.
LOOPS_FIRST = 4
LOOPS_MOST = 64
# The largest limit on an output: what a relay sends is up to one and a half times that, and a pipe.
OUTPUT_LIMIT_MOST = 8 << 20
_BLOB_MOST = OUTPUT_LIMIT_MOST * 3 // 2 + (4 << 20)
# While something is under way, the sandbox is asked for a sign of life this often, and given so long.
BEAT_EVERY = 5.0
BEAT_WITHIN = 20.0
START_WITHIN = 30.0
# Named pipes are made this many commands ahead.
_BATCH = 16
_NEVER = float("inf")


class Machine:
    """The state of one stream.

    Args:
        secret: 16 random bytes or more, in hexadecimal digits.
        name: of the folder in the sandbox; random, too.
    """

    def __init__(self, secret: bytes, name: str, clock: Callable[[], float]) -> None:
        self._secret = secret
        self._clock = clock
        self._reader = FrameReader(secret, blob_most=_BLOB_MOST)
        self._out: list[bytes] = []
        self._finished: list[Job] = []
        self._waiting: deque[Job] = deque()
        self._jobs: dict[int, Job] = {}  # handed out, and not over
        self._resting: dict[int, Job] = {}  # over, but for what is left of them in the sandbox
        self._relayed: dict[int, int] = {}  # how many relays are left of these
        self._late: dict[int, Job] = {}  # at rest, and to be struck at once more
        self._gone: list[int] = []  # over for good: their files can go
        self._signs: list[Sign] = []  # asked for; their numbers are those of beats
        self._idle = LOOPS_FIRST
        self._loops = LOOPS_FIRST
        self._last = 0
        self._piped = 0
        self._beats = 0
        self._beat_at = _NEVER
        self._lost_at = clock() + START_WITHIN
        self.started = False
        self.lost: MegaflowError | None = None
        needs = " ".join(NEEDS).encode()
        self._send(b"%s %s %s\n" % (secret, name.encode(), needs))
        self._send(program("main").encode())
        self._send(b"mf_k=%s\nmf_make 1 %d\nmf_say hello\n" % (secret, _BATCH))
        self._piped = _BATCH

    @property
    def busy(self) -> bool:
        """Whether somebody waits for something."""
        return bool(self._jobs or self._waiting)

    def submit(self, job: Job) -> None:
        """Have a job done, as soon as there is a loop for it."""
        if self.lost is not None:
            job.fail(self.lost)
            self._finished.append(job)
            return
        if isinstance(job, Sign):
            self._beat()
            job.number = self._beats
            self._signs.append(job)
            return
        if not self.busy and self.started:
            self._beat_at = self._clock() + BEAT_EVERY
        if self.started:
            job.wait(self._clock())
        self._waiting.append(job)
        self._hand_out()

    def stop(self, job: Command) -> None:
        """End a command that nobody waits for; one that has not begun never does."""
        if job in self._waiting:
            self._waiting.remove(job)
        else:
            job.stop(self._clock())
            self.advance()

    def hang_up(self, shell: Opening) -> None:
        """End a shell; one that has not begun never does."""
        if shell in self._waiting:
            self._waiting.remove(shell)
        elif shell.number in self._jobs:
            self._send(shell.hang_up(self._clock()))

    def receive(self, data: bytes) -> None:
        """What came from the sandbox."""
        if self.lost is not None:
            return
        if self.started:
            self._lost_at = _NEVER
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except ProtocolError as error:
            self.lose(SessionLost(f"the sandbox's stream is broken: it sent {error}"))
        self._hand_out()

    def lose(self, error: MegaflowError) -> None:
        """The stream is of no use any more: everything that waits, now and later, gets this error."""
        if self.lost is not None:
            return
        self.lost = error
        self._out.clear()
        for job in (*self._jobs.values(), *self._waiting, *self._signs):
            job.fail(error)
            self._finished.append(job)
        self._jobs.clear()
        self._signs.clear()
        self._resting.clear()
        self._late.clear()
        self._waiting.clear()

    def take_output(self) -> bytes:
        """What is to be sent now."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def take_finished(self) -> Sequence[Job]:
        """The jobs whose outcome has become known, and shells that have started."""
        finished, self._finished = self._finished, []
        return finished

    def due(self) -> float:
        """When `advance` has something to do; infinity for never."""
        if self.lost is not None:
            return _NEVER
        times = [job.due() for job in self._timed()]
        if self.started:
            times += [job.expires() for job in self._waiting]
        beat = self._beat_at if self.busy else _NEVER
        return min([*times, beat, self._lost_at])

    def advance(self) -> None:
        """Do what is due by now."""
        if self.lost is not None:
            return
        now = self._clock()
        for job in self._timed():
            if job.due() <= now:
                self._send(job.advance(now))
                if job.outcome is not None and job.number in self._jobs:
                    self._finish(job)
                elif job.number in self._late and job.due() == _NEVER:
                    del self._late[job.number]
                    self._gone.append(job.number)
        self._expire(now)
        if self._lost_at <= now:
            what = "gives no sign of life" if self.started else "did not start"
            self.lose(SessionLost(f"the sandbox {what}; its shell may have been killed or stopped"))
        elif self._beat_at <= now and self.busy:
            self._beat_at = now + BEAT_EVERY
            self._beat()

    def _expire(self, now: float) -> None:
        """Nobody waits any longer for a loop that does not come: its commands take all of their time, or for ever."""
        for job in [one for one in self._waiting if one.expires() <= now]:
            self._waiting.remove(job)
            job.fail(
                ResourceExhausted(
                    f"{len(self._jobs)} commands and shells of this sandbox are under way, and none has made room "
                    "within this one's timeout: end some, or give it more time"
                )
            )
            self._finished.append(job)

    def _beat(self) -> None:
        self._beats += 1
        self._lost_at = min(self._lost_at, self._clock() + BEAT_WITHIN)
        self._send(b"mf_beat %d\n" % self._beats)

    def _send(self, data: bytes) -> None:
        if data:
            self._out.append(data)

    def _hand_out(self) -> None:
        while self.started and self._waiting and self.lost is None:
            if self._idle == 1 and self._loops + 4 <= self._most_loops():
                # A loop that is told to grow becomes the parent of four.
                self._order(self._number(), b"mf_grow\n")
                self._idle += 3
                self._loops += 4
            if not self._idle:
                return
            self._begin(self._waiting.popleft())

    def _most_loops(self) -> int:
        """A shell has one for as long as it is open."""
        return LOOPS_MOST + sum(isinstance(job, Opening) for job in self._jobs.values())

    def _begin(self, job: Job) -> None:
        job.number = self._number()
        self._idle -= 1
        self._jobs[job.number] = job
        self._send(job.before())
        self._order(job.number, job.order())
        job.begin(self._clock())

    def _order(self, number: int, text: bytes) -> None:
        self._send(b"mf_q %d %s\n" % (number, as_format(text)))
        if self._piped - self._last <= _BATCH // 4:
            self._send(b"mf_make %d %d\n" % (self._piped + 1, self._piped + _BATCH))
            self._piped += _BATCH
            if self._gone:
                self._send(b"mf_forget %s\n" % " ".join(map(str, self._gone)).encode())
                self._gone.clear()

    def _number(self) -> int:
        self._last += 1
        return self._last

    def _take(self, frame: Frame) -> None:
        if self.lost is not None:
            return
        if frame.kind == "hello":
            self.started = True
            self._lost_at = _NEVER
            self._beat_at = self._clock() + BEAT_EVERY
            for job in self._waiting:
                job.wait(self._clock())
        elif frame.kind == "missing":
            self.lose(missing(" ".join(frame.words)))
        elif frame.kind == "b":
            if frame.words == ("dead",):
                self.lose(
                    SessionLost("a process of the sandbox's own was killed, and its stream with it")
                )
            else:
                self._answered(frame.number(0))
        elif frame.kind == "i":
            self._rested(frame.number(0))
            self._idle += 1
        elif frame.kind == "j":
            self._relay_over(frame.number(0))
        else:
            self._answer(frame)

    def _answer(self, frame: Frame) -> None:
        job = self._jobs.get(frame.number(0))
        if job is None:
            if frame.number(0) not in self._resting:
                raise ProtocolError(f"{frame.kind} {frame.words[0]}: an answer to nothing")
            return  # too late: it was given up
        if frame.kind == "f":
            job.fail(
                ResourceExhausted(
                    "the sandbox's temporary folder is full or gone: nothing can be run in it"
                )
            )
            self._finish(job)
            self._rested(job.number)
            self._idle += 1
            return
        if frame.kind == "y":
            self._relayed[job.number] = 2
            self._idle += 1
        job.take(frame, self._secret)
        if job.outcome is not None:
            self._finish(job)
        elif isinstance(job, Opening):
            self._finished.append(job)

    def _finish(self, job: Job) -> None:
        del self._jobs[job.number]
        self._resting[job.number] = job
        job.rest(self._clock())
        self._finished.append(job)

    def _answered(self, beat: int) -> None:
        while self._signs and self._signs[0].number <= beat:
            sign = self._signs.pop(0)
            sign.outcome = True
            self._finished.append(sign)

    def _rested(self, number: int) -> None:
        job = self._resting.pop(number, None)
        if job is None:
            raise ProtocolError(f"i {number}: nothing was left of it")
        job.rested()
        if job.due() == _NEVER:
            self._gone.append(number)
        else:
            self._late[number] = job

    def _relay_over(self, number: int) -> None:
        """One of the two relays of a command has seen the end of its pipe; its loop went on long ago."""
        left = self._relayed.get(number, 0) - 1
        if left < 0:
            raise ProtocolError(f"j {number}: no relay of that command is left")
        self._relayed[number] = left
        if not left:
            del self._relayed[number]
            self._rested(number)

    def _timed(self) -> list[Job]:
        return [*self._jobs.values(), *self._resting.values(), *self._late.values()]
