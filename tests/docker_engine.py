"""A Docker Engine of a test's own, which it may kill."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import requirement
from docker_rig import new_scope
from process_scripts import is_gone

# Adopts and reaps whatever loses its parent, so that it does not become this process's to reap.
REAPER = """
import os, subprocess, sys, time
from megaflow_server.linux import become_subreaper
become_subreaper()
print(subprocess.Popen(sys.argv[1:]).pid, flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.01)
"""


@contextmanager
def running() -> Iterator[Engine]:
    """One that runs, and is removed with all that it has; the test is skipped where there can be none."""
    dockerd = shutil.which("dockerd")
    if dockerd is None or os.geteuid() != 0:
        pytest.skip("takes root and dockerd")
    one = Engine(dockerd)
    try:
        one.start()
        yield one
    finally:
        one.remove()


class Engine:
    """A dockerd with a folder of its own, and no network."""

    def __init__(self, program: str) -> None:
        # Its containers' sockets are below: a socket's path has 107 bytes at most.
        self._folder = Path(f"/tmp/{new_scope()}")
        self._folder.mkdir()
        self._program = program
        self._reapers: list[subprocess.Popen[str]] = []
        self._pid = 0

    @property
    def address(self) -> str:
        return f"unix://{self._folder}/docker.sock"

    def start(self) -> None:
        command = [self._program, "-H", self.address, "--bridge=none", "--iptables=false"]
        for option, name in (("--data-root", "data"), ("--exec-root", "run"), ("-p", "pid")):
            command += [option, str(self._folder / name)]
        with (self._folder / "log").open("ab") as log:
            reaper = subprocess.Popen(
                [sys.executable, "-c", REAPER, *command],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._reapers.append(reaper)
        assert reaper.stdout is not None
        self._pid = int(reaper.stdout.readline())
        until = time.monotonic() + 60
        while not requirement.pinged(str(self._folder / "docker.sock")):
            assert time.monotonic() < until, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, which its containerd does not survive either."""
        containerd = int((self._folder / "run" / "containerd" / "containerd.pid").read_text())
        os.kill(self._pid, signal.SIGKILL)
        # The next one would take a dying one for its own, and wait for it.
        _gone(self._pid)
        _gone(containerd)

    def remove(self) -> None:
        os.kill(self._pid, signal.SIGTERM)
        _gone(self._pid)
        self._end_shims()
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if mount.split()[1].startswith(str(self._folder)):
                subprocess.run(["umount", mount.split()[1]], capture_output=True)
        for reaper in self._reapers:
            reaper.kill()
            reaper.communicate()
        shutil.rmtree(self._folder)

    def _end_shims(self) -> None:
        """Whatever still names its folder: shims and containers that an engine did not find again."""
        for name in os.listdir("/proc"):
            if not name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                if f"{self._folder}/".encode() in Path("/proc", name, "cmdline").read_bytes():
                    children = Path("/proc", name, "task", name, "children").read_text().split()
                    for pid in (*children, name):
                        os.kill(int(pid), signal.SIGKILL)


def _gone(pid: int) -> None:
    """Return once a process has ended and is reaped."""
    until = time.monotonic() + 30
    while not is_gone(pid):
        assert time.monotonic() < until
        time.sleep(0.01)
