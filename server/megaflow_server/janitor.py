"""A process that tidies up behind a server that could not do so itself, because it was killed.

It holds the read end of a pipe, over which the server says which files are to go with it, and which the kernel
closes when the server ends, however it ends. Then the janitor ends every process that carries a mark of the
server's run, removes those files, and ends as well. The standard library alone: it is to be small.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from megaflow_server import marks
from megaflow_server.removal import remove_tree

__all__ = ["PATIENCE", "Janitor", "end_all", "main", "tidies"]

_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from megaflow_server.janitor import main; main(int(sys.argv[2]))"
)
# What a process that was killed may take to go; seconds.
_PATIENCE = 5.0
# What another server's janitor may take, once its server is gone; seconds.
PATIENCE = 3.0
_LONGEST_PAUSE = 0.1


class Janitor:
    """The server's end; a context manager, whose end is the server's."""

    def __enter__(self) -> Janitor:
        folder = Path(__file__).resolve().parents[1]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, str(folder), str(marks.RUN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # A Ctrl-C at the server's terminal is none of its business, nor is that terminal's end.
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(2 * _PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def take(self, paths: Iterable[Path], *, folders: bool = False) -> None:
        """Has files, sockets and folders go with the server, as they are now.

        What stands at such a path later is somebody else's, and stays.

        Args:
            folders: whether the folders that they are in go as well, where nothing else is there.
        """
        assert self._process.stdin is not None
        for path in paths:
            status = path.lstat()
            entry = [str(path.absolute()), status.st_dev, status.st_ino, folders]
            with suppress(BrokenPipeError):  # somebody has killed it: the server can do without
                self._process.stdin.write(json.dumps(entry).encode() + b"\n")
                self._process.stdin.flush()


def tidies(pid: int) -> bool:
    """Whether a process is a janitor, which ends by itself soon after its server."""
    with suppress(OSError):
        return _START.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def main(run: int) -> None:
    """The janitor's end: waits for the server's end, and tidies up behind it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lines = sys.stdin.buffer.readlines()
    end_all(run)
    for line in lines:
        with suppress(ValueError):  # the server was killed while it wrote this
            _remove(*json.loads(line))
    os._exit(0)


def end_all(run: int) -> None:
    """Ends every process with a mark of a run, as long as that takes, and not for much longer than 5 s."""
    began = time.monotonic()
    pause = 0.005
    # A pass that finds one is not the last: it may have started another meanwhile.
    while (found := list(_carriers(run))) and time.monotonic() < began + _PATIENCE:
        for process in found:
            if time.monotonic() < began + PATIENCE and tidies(process.pid):
                continue  # of a server within this one, which was killed just now
            with suppress(PermissionError):  # it runs as another user by now
                marks.kill(process)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _carriers(run: int) -> Iterator[marks.Process]:
    """The living processes with a mark of this run."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and _carries(int(name), run):
            process = marks.read(int(name))
            if process is not None and not process.zombie:
                yield process


def _carries(pid: int, run: int) -> bool:
    number, texts = marks.marks_on(pid)
    if marks.run_of(number) == run:
        return True
    for text in texts:
        with suppress(ValueError):  # somebody else's idea of this variable
            if marks.run_of(int(text.rpartition(".")[2], 16)) == run:
                return True
    return False


def _remove(path: str, device: int, inode: int, folders: Any) -> None:
    with suppress(OSError):  # gone already, which is the rule
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == (device, inode):
            if stat.S_ISDIR(status.st_mode):
                remove_tree(Path(path))
            else:
                os.unlink(path)
        if folders:
            os.rmdir(os.path.dirname(path))
