"""Processes that a benchmark starts beside itself, and what processes take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megaflow import embedded
from megaflow.errors import Unavailable
from megaflow_server import linux
from megaflow_server.backends.descendants import descendants


def resident(process: int | str) -> int:
    """Resident bytes of a process; 0 for one that has ended."""
    try:
        lines = Path("/proc", str(process), "status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    for line in lines:
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0  # one that was not waited for


def cpu(process: int) -> float:
    """Seconds of a core that a process has taken, its threads that have ended included.

    By the clock that Linux has for each process (clock_getcpuclockid), since /proc counts in hundredths.
    """
    return time.clock_gettime(~process << 3 | 2)


def embedded_gateway(server: str | None) -> int | None:
    """The process of the embedded server; None where `server` is another."""
    if server is not None or embedded.configured_server() is not None:
        return None
    process = embedded.ensure().process
    return None if process is None else process.pid


def family(gateway: int) -> list[int]:
    """A gateway's process and those of its workers."""
    return [gateway, *descendants(gateway)]


@contextmanager
def serving(*arguments: str, **settings: int) -> Iterator[tuple[str, int]]:
    """A server with these arguments, and settings under `[server]`: its address, and its gateway's process."""
    with tempfile.TemporaryDirectory(prefix="megaflow-bench-") as folder:
        config = Path(folder, "megaflow.toml")
        config.write_text("\n".join(["[server]", *(f"{k} = {v}" for k, v in settings.items()), ""]))
        address = f"unix:{folder}/server.sock"
        command = ["serve", "--listen", address, "--config", str(config), *arguments]
        with subprocess.Popen(
            [sys.executable, "-m", "megaflow_server", *command], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise Unavailable("the server to be measured did not start: it says why above")
                yield address, process.pid
            finally:
                process.send_signal(signal.SIGINT)


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started within never hear of Ctrl-C at their terminal: who started them ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def child(module: str, asked: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs a module of the benchmark, and reads what it is asked as a line of JSON.

    It is ended with the block, and with this process.
    """
    with deaf():
        process = subprocess.Popen(
            [sys.executable, "-m", f"megaflow_server.bench.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            assert process.stdin is not None
            print(json.dumps({"parent": os.getpid(), **asked}), file=process.stdin, flush=True)
            yield process
        finally:
            process.terminate()


def asked_of_child() -> dict[str, Any]:
    """What such a process was asked; from here on it ends with who asked it."""
    asked: dict[str, Any] = json.loads(sys.stdin.readline())
    linux.set_parent_death_signal(asked.pop("parent"))
    return asked
