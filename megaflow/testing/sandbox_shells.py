"""The part of the sandbox's contract that is about shells."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from megaflow.errors import FailedPrecondition, NotFound
from megaflow.sandbox import Sandbox

__all__ = ["ShellContract"]

PATIENCE = 30.0


class ShellContract:
    """Shells that keep what a command leaves."""

    def test_a_shell_keeps_what_a_command_leaves(self, sandbox: Sandbox) -> None:
        with sandbox.shell() as shell:
            shell.run("cd /tmp; one=1; export TWO=2; f() { echo f $one; }; set -- a b; (exit 3)")
            result = shell.run('echo $?; pwd; f; sh -c "echo \\$TWO"; echo $#')
            assert result.stdout == b"3\n/tmp\nf 1\n2\n2\n"
            assert result.exit_code == 0

    def test_a_shell_has_outputs_and_exit_codes(self, sandbox: Sandbox) -> None:
        with sandbox.shell(env={"GIVEN": "it's"}, cwd="/tmp") as shell:
            result = shell.run('echo "$GIVEN"; pwd; echo err >&2; cat; (exit 9)')
            assert (result.stdout, result.stderr) == (b"it's\n/tmp\n", b"err\n")
            assert result.exit_code == 9
            assert shell.run("head -c 200000 /dev/zero").stdout == bytes(200_000)

    def test_a_shell_outlives_an_error(self, sandbox: Sandbox) -> None:
        with sandbox.shell() as shell:
            shell.run("kept=1")
            assert shell.run("if then").exit_code != 0
            assert shell.run("no-such-command").exit_code == 127
            assert shell.run("echo $kept").stdout == b"1\n"

    def test_shells_are_apart(self, sandbox: Sandbox) -> None:
        with sandbox.shell() as one, sandbox.shell() as other:
            one.run("cd /tmp; x=1")
            assert other.run("echo $x").stdout == b"\n"
            with ThreadPoolExecutor(2) as threads:
                first = threads.submit(one.run, "sleep 0.5; echo one")
                second = threads.submit(one.run, "echo two")
                assert other.run("echo three").stdout == b"three\n"
                assert (first.result().stdout, second.result().stdout) == (b"one\n", b"two\n")

    @pytest.mark.parametrize(
        "command",
        [
            "sleep 600; echo no",
            "f() { sleep 600; sleep 601; }; f; sleep 602; echo no",
            "while :; do :; done",
            "while :; do sleep 600; done",
            "(trap '' TERM; while :; do sleep 1; done)",
            "yes",
        ],
    )
    def test_out_of_time_a_shell_stays(self, sandbox: Sandbox, command: str) -> None:
        with sandbox.shell() as shell:
            shell.run("kept=1; sleep 700 &")
            result = shell.run(f"echo before; {command}", timeout=0.5)
            assert result.timed_out
            assert result.stdout.startswith(b"before\n")
            assert result.stdout.find(b"no\n") < 0
            assert shell.run("echo $kept; kill -0 $! && echo there").stdout == b"1\nthere\n"

    def test_a_shell_that_ends_is_told(self, sandbox: Sandbox) -> None:
        shell = sandbox.shell()
        result = shell.run("echo last; exit 5")
        assert (result.stdout, result.exit_code) == (b"last\n", 5)
        with pytest.raises(FailedPrecondition, match="exit code 5"):
            shell.run("true")
        shell.close()
        killed = sandbox.shell()
        assert killed.run("kill -9 $$").exit_code == 137
        assert sandbox.exec("echo alive").stdout == b"alive\n"

    def test_a_shell_that_is_closed_ends_what_it_started(self, sandbox: Sandbox) -> None:
        shell = sandbox.shell()
        pid = shell.run("sleep 600 & echo $!").stdout.decode().strip()
        shell.close()
        shell.close()
        end = time.monotonic() + PATIENCE
        while (
            sandbox.exec(
                f"kill -0 {pid} 2>/dev/null && ! grep -q Z.zombie /proc/{pid}/status"
            ).exit_code
            == 0
        ):
            assert time.monotonic() < end
            time.sleep(0.05)

    def test_an_interpreter_that_is_missing(self, sandbox: Sandbox) -> None:
        with pytest.raises(NotFound, match="no-such-shell"):
            sandbox.shell(interpreter="no-such-shell")
        with pytest.raises(NotFound, match="/nowhere"):
            sandbox.shell(cwd="/nowhere")
