"""The contract of a sandbox, as tests: subclass `SandboxContract` in a test module, with a `sandbox` fixture."""

from __future__ import annotations

import string
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

import pytest

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SessionLost,
)
from megaflow.sandbox import Sandbox
from megaflow.testing.sandbox_files import FileContract
from megaflow.testing.sandbox_shells import ShellContract

__all__ = ["INTERNAL_SIGNALS", "SandboxContract"]

# In a mask: those of the C library, 32 and 33, which no program of ours can set.
INTERNAL_SIGNALS = 3 << 31

# Far beyond what anything here takes on a busy machine, and short of a test's own time limit.
PATIENCE = 30.0
# What a pipe holds, and some more: a command that writes as much waits for its reader.
MUCH = 300_000


class CommandContract:
    """Commands that are run on their own."""

    def test_outputs_and_exit_code(self, sandbox: Sandbox) -> None:
        result = sandbox.exec("echo out; echo err >&2; exit 7")
        assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 7)
        assert not result.timed_out
        assert (result.stdout.omitted, result.stdout.text) == (0, "out\n")

    @pytest.mark.parametrize("code", [0, 1, 2, 125, 126, 127, 143, 255])
    def test_exit_codes_are_exact(self, sandbox: Sandbox, code: int) -> None:
        assert sandbox.exec(f"exit {code}").exit_code == code

    @pytest.mark.parametrize("signal", [1, 2, 6, 9, 11, 15])
    def test_a_signal_is_128_and_its_number(self, sandbox: Sandbox, signal: int) -> None:
        assert sandbox.exec(f"kill -{signal} $$").exit_code == 128 + signal

    def test_every_byte_comes_through(self, sandbox: Sandbox) -> None:
        every = bytes(range(256)) * 3
        sandbox.write_file("/tmp/every", every)
        result = sandbox.exec("cat /tmp/every; cat /tmp/every >&2")
        assert (result.stdout, result.stderr) == (every, every)

    @pytest.mark.parametrize(
        "text",
        ["it's", '"$HOME" `id` $(id)', "a\nb\n", "\\n \\ %s %%", "*?[a]", "-n", "é\u4e2d", ""],
    )
    def test_text_is_taken_as_it_is(self, sandbox: Sandbox, text: str) -> None:
        result = sandbox.exec('printf %s "$VALUE"', env={"VALUE": text})
        assert result.stdout == text.encode()
        quoted = "'" + text.replace("'", "'\\''") + "'"
        assert sandbox.exec(f"printf %s {quoted}").stdout == text.encode()

    def test_its_input_is_empty(self, sandbox: Sandbox) -> None:
        assert sandbox.exec("cat; echo end", timeout=PATIENCE).stdout == b"end\n"

    def test_nothing_is_kept_from_one_to_the_next(self, sandbox: Sandbox) -> None:
        sandbox.exec("cd /tmp; export KEPT=1; umask 0")
        assert sandbox.exec("echo $KEPT; umask").stdout == sandbox.exec("echo; umask").stdout
        assert sandbox.exec("pwd").stdout == sandbox.exec("cd .; pwd").stdout

    def test_folder_and_environment(self, sandbox: Sandbox) -> None:
        sandbox.exec("mkdir -p '/tmp/a b'")
        result = sandbox.exec("pwd; echo $ONE $TWO", cwd="/tmp/a b", env={"ONE": "1", "TWO": "2"})
        assert result.stdout == b"/tmp/a b\n1 2\n"
        with pytest.raises(NotFound, match="cwd='/nowhere'"):
            sandbox.exec("true", cwd="/nowhere")
        with pytest.raises(InvalidArgument, match="env"):
            sandbox.exec("true", env={"a b": "1"})
        with pytest.raises(InvalidArgument, match=r"env.*over"):
            sandbox.exec("true", env={"LONG": "x" * (1 << 17)})

    def test_variables_of_any_name(self, sandbox: Sandbox) -> None:
        for name in string.ascii_letters:
            result = sandbox.exec(f'printf "%s" real "${name}"', env={name: "echo false"})
            assert (result.stdout, result.exit_code) == (b"realecho false", 0), name
        assert sandbox.exec("echo real", env={"IFS": "e"}).stdout == b"real\n"
        everything = dict.fromkeys(string.ascii_lowercase, "/tmp")
        with sandbox.shell(env=everything) as shell:
            assert shell.run("echo $a $z").stdout == b"/tmp /tmp\n"
        assert sandbox.exec("/bin/echo on", env={"PATH": "/nowhere"}).stdout == b"on\n"

    def test_what_cannot_be_run_is_refused(self, sandbox: Sandbox) -> None:
        with pytest.raises(InvalidArgument, match="NUL"):
            sandbox.exec("echo \0")
        with pytest.raises(InvalidArgument, match="character"):
            sandbox.exec("echo \ud800")
        with pytest.raises(InvalidArgument, match="exec"):
            sandbox.exec("true", timeout=10**400)
        with pytest.raises(InvalidArgument, match="command: over"):
            sandbox.exec("x" * (1 << 17))
        with pytest.raises(InvalidArgument, match="timeout"):
            sandbox.exec("true", timeout=0)
        for limit in (1.5, -1, True):
            with pytest.raises(InvalidArgument, match="output_limit"):
                sandbox.exec("true", output_limit=limit)  # type: ignore[arg-type]
        assert sandbox.exec(": " + "x" * 120_000 + "; echo ran").stdout == b"ran\n"

    def test_a_command_has_ordinary_signals(self, sandbox: Sandbox) -> None:
        lines = sandbox.exec("grep -E 'Sig(Ign|Blk)' /proc/self/status; true").stdout.split()
        assert [int(mask, 16) & ~INTERNAL_SIGNALS for mask in lines[1::2]] == [0, 0], lines

    def test_time_is_over(self, sandbox: Sandbox) -> None:
        began = time.monotonic()
        result = sandbox.exec("echo before; sleep 600 & sleep 601; echo after", timeout=0.5)
        assert time.monotonic() - began < PATIENCE
        assert (result.stdout, result.timed_out, result.exit_code) == (b"before\n", True, 143)
        self.gone(sandbox, "sleep 60[01]")
        assert sandbox.exec("echo alive").stdout == b"alive\n"

    def test_a_command_that_ignores_sigterm_is_killed(self, sandbox: Sandbox) -> None:
        result = sandbox.exec("trap '' TERM; echo on; while :; do sleep 1; done", timeout=0.3)
        assert (result.stdout, result.timed_out, result.exit_code) == (b"on\n", True, 137)
        assert sandbox.exec("echo alive").stdout == b"alive\n"

    def test_what_ignores_sigterm_below_it_is_killed(self, sandbox: Sandbox) -> None:
        deaf = (
            "sh -c 'trap \"\" TERM; while :; do sleep 1; : deaf-; done' >/dev/null 2>&1 & sleep 600"
        )
        assert sandbox.exec(deaf, timeout=0.3).timed_out
        self.gone(sandbox, ": deaf-")

    def test_much_output_comes_whole(self, sandbox: Sandbox) -> None:
        command = f"head -c {MUCH} /dev/zero | tr '\\0' a; head -c {MUCH} /dev/zero >&2"
        result = sandbox.exec(command)
        assert (result.stdout, result.stderr) == (b"a" * MUCH, bytes(MUCH))

    def test_too_much_output_keeps_its_ends(self, sandbox: Sandbox) -> None:
        numbers = "".join(f"{number}\n" for number in range(1, 200_001)).encode()
        result = sandbox.exec("seq 200000", output_limit=10_000)
        output = result.stdout
        assert len(output) == 10_000
        assert output == numbers[: output.cut] + numbers[-(10_000 - output.cut) :]
        assert 4000 < output.cut < 6000
        assert output.omitted == len(numbers) - 10_000
        assert f"[{output.omitted} bytes left out]" in output.text
        assert sandbox.exec("echo hi", output_limit=0).stdout.omitted == 3

    def test_a_flood_is_ended_and_told(self, sandbox: Sandbox) -> None:
        result = sandbox.exec("yes; echo never", timeout=1, output_limit=1000)
        assert result.timed_out
        assert len(result.stdout) == 1000
        assert result.stdout.omitted > MUCH
        assert set(result.stdout) == set(b"y\n")

    def test_what_runs_on_holds_nothing_open(self, sandbox: Sandbox) -> None:
        began = time.monotonic()
        result = sandbox.exec("sleep 600 & echo started")
        assert result.stdout == b"started\n"
        assert time.monotonic() - began < PATIENCE
        assert sandbox.exec("echo again").stdout == b"again\n"

    def test_any_number_of_them_may_run_on(self, sandbox: Sandbox) -> None:
        try:
            for _ in range(80):
                sandbox.exec("sleep 601 &")
            assert sandbox.exec("echo on", timeout=PATIENCE).stdout == b"on\n"
        finally:
            sandbox.exec(
                "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline)\" != 'sleep 601 ' ] "
                "|| kill ${p#/proc/}; done 2>/dev/null"
            )
        self.gone(sandbox, "sleep 60[1]")

    def test_what_runs_on_writes_without_harm(self, sandbox: Sandbox) -> None:
        flood = f"(sleep 0.3; head -c {MUCH} /dev/zero; head -c {MUCH} /dev/zero >&2; echo >/tmp/done) &"
        assert sandbox.exec(f"rm -f /tmp/done; {flood} echo started").stdout == b"started\n"
        self.soon(sandbox, "[ -e /tmp/done ]")

    def test_calls_are_kept_apart(self, sandbox: Sandbox) -> None:
        def call(number: int) -> bool:
            size = 1000 * number
            result = sandbox.exec(
                f"echo {number}; head -c {size} /dev/zero | tr '\\0' x; echo {number} >&2; exit {number}"
            )
            expected = b"%d\n" % number + b"x" * size
            return (result.stdout, result.stderr, result.exit_code) == (
                expected,
                b"%d\n" % number,
                number,
            )

        with ThreadPoolExecutor(12) as threads:
            assert all(threads.map(call, range(24)))

    def test_more_calls_than_at_first_wait_for_nobody(self, sandbox: Sandbox) -> None:
        with ThreadPoolExecutor(12) as threads:
            # Each waits for the others: they must all run at the same time.
            meet = (
                'touch /tmp/meet.$N; until [ "$(ls /tmp/meet.* | wc -l)" = 12 ]; do sleep 0.1; done'
            )
            calls = [
                threads.submit(sandbox.exec, meet, env={"N": str(n)}, timeout=PATIENCE)
                for n in range(12)
            ]
            assert not any(call.result().timed_out for call in calls)

    def test_a_listing_of_all_processes_is_only_text(self, sandbox: Sandbox) -> None:
        result = sandbox.exec("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; echo end")
        assert result.stdout.endswith(b"end\n")
        assert sandbox.exec("echo alive").stdout == b"alive\n"

    def soon(self, sandbox: Sandbox, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while sandbox.exec(condition).exit_code:
            assert time.monotonic() < end, f"not in time: {condition}"
            time.sleep(0.05)

    def gone(self, sandbox: Sandbox, pattern: str) -> None:
        """Wait until no process has this in its command line (where its arguments are separated by spaces)."""
        look = (
            'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <$f; echo; done 2>/dev/null | grep -v PATTERN '
            '| grep -E -- "$PATTERN"'
        )
        self.soon(sandbox, f"PATTERN='{pattern}'; ! {{ {look}; }}")


class LossContract(ABC):
    """What a sandbox that dies, and one that keeps no snapshots, say."""

    @abstractmethod
    def kill(self, sandbox: Sandbox) -> None:
        """End the sandbox, as somebody else would."""

    def test_a_death_reaches_every_call_that_waits(self, sandbox: Sandbox) -> None:
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                sandbox.exec("sleep 600")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        self.kill(sandbox)
        for thread in threads:
            thread.join(PATIENCE)
        assert [type(error) for error in errors] == [SessionLost] * 3
        with pytest.raises(SessionLost):
            sandbox.exec("true")

    def test_a_command_that_kills_everything_is_a_loss(self, sandbox: Sandbox) -> None:
        with pytest.raises(SessionLost):
            sandbox.exec("kill -9 -1; sleep 600", timeout=PATIENCE)


class SnapshotContract:
    """Snapshots, where there are any."""

    # Whether this kind of sandbox keeps them.
    snapshots = False

    def test_a_snapshot_is_gone_back_to(self, sandbox: Sandbox) -> None:
        if not self.snapshots:
            with pytest.raises(FailedPrecondition):
                sandbox.snapshot()
            with pytest.raises(FailedPrecondition):
                sandbox.restore("none")
            return
        sandbox.write_file("/home/kept", "before")
        taken = sandbox.snapshot()
        sandbox.write_file("/home/kept", "after")
        sandbox.write_file("/home/more", "after")
        sandbox.exec("sleep 600 &")
        sandbox.restore(taken)
        assert sandbox.read_file("/home/kept") == b"before"
        with pytest.raises(NotFound):
            sandbox.read_file("/home/more")
        with pytest.raises(NotFound):
            sandbox.restore("none")


class SandboxContract(CommandContract, ShellContract, FileContract, LossContract, SnapshotContract):
    """Subclasses add a fixture `sandbox`, a new one for each test or one that `kill` alone ends, and `kill`."""
