"""The state machine of a stream, on a clock of its own, against a sandbox that answers as it likes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from megaflow.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, SessionLost
from megaflow.sandbox import Output
from megaflow_server.sandbox.commands import GIVE_UP, RELAY_AFTER, Command, Ended
from megaflow_server.sandbox.jobs import GRACE, Block, Job, Opening, Place, Reading, Sign
from megaflow_server.sandbox.machine import (
    BEAT_EVERY,
    BEAT_WITHIN,
    LOOPS_MOST,
    START_WITHIN,
    Machine,
)

SECRET = b"5ec2e7"
ORDER = re.compile(rb"^mf_q (\d+) ", re.MULTILINE)


@dataclass
class Scene:
    """A machine, its clock, and what was sent to its sandbox so far."""

    now: float = 0.0
    sent: bytes = b""
    finished: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = Machine(SECRET, "name", lambda: self.now)
        self.look()

    def look(self) -> bytes:
        new = self.machine.take_output()
        self.sent += new
        self.finished += self.machine.take_finished()
        return new

    def hear(self, data: bytes) -> bytes:
        self.machine.receive(data)
        return self.look()

    def wait(self, seconds: float) -> bytes:
        """Time goes by, in the machine's own steps."""
        end = self.now + seconds
        new = b""
        while (due := self.machine.due()) <= end:
            self.now = max(self.now, due)
            self.machine.advance()
            new += self.look()
        self.now = end
        return new

    def submit(self, job: Job) -> bytes:
        self.machine.submit(job)
        return self.look()


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.hear(b"hello\n")
    return scene


def command(timeout: float | None = None, limit: int = 1000) -> Command:
    return Command("true", limit=limit, timeout=timeout)


def ended(number: int, code: int = 0, out: bytes = b"", err: bytes = b"") -> bytes:
    blobs = b"".join(blob + SECRET + b"m\n\n" + SECRET + b"e" for blob in (out, err))
    return b"x %d %d \n" % (number, code) + blobs


def test_nothing_is_handed_out_before_it_has_started() -> None:
    scene = Scene()
    job = command()
    assert b"mf_q" not in scene.submit(job)
    assert ORDER.findall(scene.hear(b"hello\n")) == [b"1"]
    scene.hear(ended(1, 3, b"out", b"err"))
    assert job.outcome == Ended(3, Output(b"out"), Output(b"err"))
    assert scene.finished == [job]


def test_one_that_does_not_start_is_lost() -> None:
    scene = Scene()
    job = command()
    scene.submit(job)
    scene.wait(START_WITHIN + 1)
    assert isinstance(job.outcome, SessionLost)


def test_what_an_image_lacks_is_named() -> None:
    scene = Scene()
    scene.hear(b"missing setsid\n")
    assert isinstance(scene.machine.lost, FailedPrecondition)
    assert "setsid" in str(scene.machine.lost)


def test_what_comes_after_the_marker_is_not_the_commands(scene: Scene) -> None:
    job = command()
    scene.submit(job)
    late = b"written later" + SECRET + b"e"
    scene.hear(b"x 1 0 \nout" + SECRET + b"m\n\n" + late + SECRET + b"m\n" + SECRET + b"e")
    assert job.outcome == Ended(0, Output(b"out"), Output(b""))


def test_relays_take_over_from_a_command_that_takes_longer(scene: Scene) -> None:
    job = command()
    scene.submit(job)
    assert b"mf_relays 1 " in scene.wait(RELAY_AFTER)
    marker = SECRET + b"m\n\n"
    scene.hear(b"y 1 0 \n" + b"r 1 e %d 0\n" % len(marker) + marker + SECRET + b"e")
    assert job.outcome is None
    # 10,000 bytes passed, and the first and last 5,000 or so were kept.
    kept = b"a" * 600 + b"b" * 600 + marker
    scene.hear(b"r 1 o %d 600\n" % (10_000 + len(marker)) + kept + SECRET + b"e")
    assert isinstance(job.outcome, Ended)
    output = job.outcome.stdout
    assert (output, output.cut, output.omitted) == (b"a" * 500 + b"b" * 500, 500, 9000)


def test_a_late_command_is_told_then_killed_then_given_up(scene: Scene) -> None:
    job = command(timeout=1.0)
    scene.submit(job)
    assert b"mf_kill" not in scene.wait(0.99)
    assert b"mf_kill 1 TERM\n" in scene.wait(0.02)
    assert b"mf_kill" not in scene.wait(GRACE - 0.05)
    assert b"mf_kill 1 KILL\n" in scene.wait(0.05)
    scene.hear(b"b 1\n")
    scene.wait(GIVE_UP)
    assert isinstance(job.outcome, DeadlineExceeded)
    scene.hear(ended(1, 137))  # too late
    scene.hear(b"i 1\n")
    assert scene.machine.lost is None


def test_what_is_left_of_a_late_commands_group_is_killed_all_the_same(scene: Scene) -> None:
    job = command(timeout=1.0)
    scene.submit(job)
    scene.wait(1.0)
    scene.hear(ended(1, 143) + b"i 1\n")
    assert isinstance(job.outcome, Ended)
    assert job.outcome.timed_out
    assert b"mf_kill 1 KILL\n" in scene.wait(GRACE)


def test_pipes_that_are_held_open_are_emptied(scene: Scene) -> None:
    scene.submit(command())
    assert b"mf_void" not in scene.hear(ended(1))
    assert b"mf_void 1\n" in scene.wait(0.2)


def test_a_full_folder_is_told(scene: Scene) -> None:
    job = command()
    scene.submit(job)
    scene.hear(b"f 1\n")
    assert isinstance(job.outcome, ResourceExhausted)


def test_a_sandbox_that_falls_silent_is_lost(scene: Scene) -> None:
    job = command()
    scene.submit(job)
    assert b"mf_beat 1\n" in scene.wait(BEAT_EVERY)
    scene.hear(b"b 1\n")
    scene.wait(BEAT_EVERY + BEAT_WITHIN - 1)
    assert job.outcome is None
    scene.wait(1.5)
    assert isinstance(job.outcome, SessionLost)


def test_a_loop_that_was_killed_is_a_loss(scene: Scene) -> None:
    job = command()
    scene.submit(job)
    scene.hear(b"b dead\n")
    assert isinstance(job.outcome, SessionLost)


def test_a_sign_of_life_takes_no_loop(scene: Scene) -> None:
    first, second = Sign(), Sign()
    assert scene.submit(first) == b"mf_beat 1\n"
    assert scene.submit(second) == b"mf_beat 2\n"
    scene.hear(b"b 1\n")
    assert (first.outcome, second.outcome) == (True, None)
    scene.hear(b"b 2\n")
    assert second.outcome is True
    assert scene.finished == [first, second]


def test_a_sign_of_life_that_does_not_come_is_a_loss(scene: Scene) -> None:
    sign = Sign()
    scene.submit(sign)
    scene.wait(BEAT_WITHIN)
    assert isinstance(sign.outcome, SessionLost)


def test_one_that_is_dying_gives_no_sign_of_life(scene: Scene) -> None:
    sign = Sign()
    scene.submit(sign)
    scene.hear(b"b dead\n")
    assert isinstance(sign.outcome, SessionLost)


def test_an_idle_sandbox_is_left_alone(scene: Scene) -> None:
    assert scene.wait(3600) == b""
    assert scene.machine.lost is None
    scene.submit(command())
    scene.hear(ended(1) + b"i 1\n")
    assert b"mf_beat" not in scene.wait(3600)


def full(scene: Scene) -> list[Command]:
    """Commands that have all loops there may be."""
    jobs: list[Command] = []
    while not jobs or jobs[-1].number:
        jobs.append(command())
        scene.submit(jobs[-1])
    scene.machine.stop(jobs.pop())
    return jobs


def test_time_passes_while_nothing_makes_room(scene: Scene) -> None:
    running = full(scene)
    late, patient = command(timeout=3.0), command(timeout=12.0)
    scene.submit(late)
    scene.submit(patient)
    for _ in range(3):
        assert late.outcome is None
        scene.wait(1.0)
        scene.hear(b"b 1\n")
    assert isinstance(late.outcome, ResourceExhausted)
    assert "none has made room" in late.outcome.message
    scene.hear(ended(running[0].number) + b"i %d\n" % running[0].number)
    assert patient.number
    # Its time is what was left of it.
    assert b"mf_kill" not in scene.wait(8.9)
    assert b"mf_kill %d TERM" % patient.number in scene.wait(0.2)


def test_time_begins_when_the_sandbox_does() -> None:
    scene = Scene()
    job = command(timeout=1.0)
    scene.submit(job)
    scene.wait(5.0)
    scene.hear(b"hello\n")
    assert job.number
    assert b"mf_kill" not in scene.wait(0.9)
    assert b"mf_kill" in scene.wait(0.2)


def test_shells_take_nothing_from_commands(scene: Scene) -> None:
    shells = [Opening("/bin/sh", ":", Place()) for _ in range(LOOPS_MOST)]
    for shell in shells:
        scene.submit(shell)
        scene.hear(b"s %d\n" % shell.number)
    assert all(shell.number for shell in shells)
    assert len(full(scene)) >= LOOPS_MOST // 2


def test_a_shell_that_has_not_begun_is_hung_up(scene: Scene) -> None:
    running = full(scene)
    shell = Opening("/bin/sh", ":", Place())
    scene.submit(shell)
    scene.machine.hang_up(shell)
    scene.hear(ended(running[0].number) + b"i %d\n" % running[0].number)
    assert not shell.number


def test_loops_grow_up_to_their_most(scene: Scene) -> None:
    jobs = [command() for _ in range(LOOPS_MOST + 40)]
    for job in jobs:
        scene.submit(job)
    running = len([job for job in jobs if job.number])
    assert LOOPS_MOST // 2 < running <= LOOPS_MOST
    for job in list(jobs):
        if job.number:
            scene.hear(ended(job.number) + b"i %d\n" % job.number)
    for job in jobs:
        if job.outcome is None:
            scene.hear(ended(job.number) + b"i %d\n" % job.number)
    assert all(isinstance(job.outcome, Ended) for job in jobs)


@given(
    st.binary(max_size=300).filter(lambda data: SECRET not in data),
    st.integers(0, 400),
)
def test_an_output_keeps_its_ends_and_counts_the_rest(data: bytes, limit: int) -> None:
    scene = Scene()
    scene.hear(b"hello\n")
    job = command(limit=limit)
    scene.submit(job)
    scene.hear(ended(1, 0, data))
    assert isinstance(job.outcome, Ended)
    output = job.outcome.stdout
    assert len(output) == min(limit, len(data))
    assert output.omitted == len(data) - len(output)
    assert data.startswith(output[: output.cut])
    assert data.endswith(output[output.cut :])


class AnySandbox(RuleBasedStateMachine):
    """A sandbox that does what one may, in any order; each job has one outcome, and its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.jobs: list[Job] = []
        self.answered: dict[int, int] = {}
        self.resting: list[int] = []
        self.scene.hear(b"hello\n")

    def open(self) -> list[int]:
        handed = [job.number for job in self.jobs if job.number and job.number not in self.answered]
        return sorted(handed)

    @rule(timeout=st.sampled_from([None, 0.001, 1.0]), reads=st.booleans())
    def submit(self, timeout: float | None, reads: bool) -> None:
        job: Job = Reading("file", 0) if reads else command(timeout)
        self.jobs.append(job)
        self.scene.submit(job)

    @precondition(lambda self: self.open())
    @rule(data=st.data(), code=st.integers(0, 255))
    def answer(self, data: st.DataObject, code: int) -> None:
        number = data.draw(st.sampled_from(self.open()))
        (job,) = (job for job in self.jobs if job.number == number)
        self.answered[number] = code
        self.resting.append(number)
        if isinstance(job, Reading):
            self.scene.hear(b"d %d ok\n%d" % (number, code) + SECRET + b"e")
        else:
            self.scene.hear(ended(number, code))

    @precondition(lambda self: self.resting)
    @rule(data=st.data())
    def rest(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.resting))
        self.resting.remove(number)
        self.scene.hear(b"i %d\n" % number)

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.scene.wait(seconds)
        self.scene.hear(b"b 1\n")

    @invariant()
    def each_has_its_own_outcome(self) -> None:
        assert self.scene.machine.lost is None
        assert len(self.scene.finished) == len(set(self.scene.finished))
        for job in self.scene.finished:
            if isinstance(job.outcome, DeadlineExceeded):
                continue
            if isinstance(job, Reading):
                assert job.outcome == Block("ok", b"%d" % self.answered[job.number])
            else:
                assert isinstance(job.outcome, Ended)
                assert job.outcome.exit_code == self.answered[job.number]
        for number in self.answered:
            assert any(job.number == number for job in self.scene.finished)

    def teardown(self) -> None:
        self.scene.machine.lose(SessionLost("over"))
        self.scene.look()
        assert all(job.outcome is not None for job in self.jobs)
        assert len(self.scene.finished) == len(self.jobs)


TestAnySandbox = AnySandbox.TestCase
