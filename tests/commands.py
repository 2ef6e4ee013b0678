"""The `megaflow` command in tests: as a process of its own, or in this one where that is enough."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from megaflow_server.cli import main

# What a busy machine may take to import gymnasium in a server and its workers; seconds.
PATIENCE = 60.0

# As the installed script runs: without the current folder on sys.path, where `-m` alone would put it.
SERVE = ("-P", "-m", "megaflow_server", "serve")

_SERVING = re.compile(r"Serving \w+ at (\S+?)\.? ")


class Served:
    """A running `megaflow serve`, at the addresses that it printed."""

    def __init__(self, process: subprocess.Popen[str], count: int) -> None:
        self.process = process
        assert process.stdout is not None
        self.lines = [process.stdout.readline() for _ in range(count)]
        self.addresses = [match[1] for line in self.lines if (match := _SERVING.match(line))]
        if len(self.addresses) != count:
            process.kill()
            pytest.fail(f"it printed {self.lines} and {process.communicate()}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after a signal; fails where it printed a traceback."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        _, errors = self.process.communicate(timeout=PATIENCE)
        assert "Traceback" not in errors, errors
        return self.process.returncode


Serve = Callable[..., Served]
Refused = Callable[..., str]


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    """`megaflow ARGUMENTS…` in this process."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    status = ended.value.code or 0
    assert isinstance(status, int)
    return Outcome(status, captured.out, captured.err)
