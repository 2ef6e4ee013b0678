"""What a local server is: a process that keeps `megaflow serve` and `megaflow runner` running, until it is idle."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from megaflow_server.cpus import usable_cpus
from megaflow_server.jobs.local import digests, locked
from megaflow_server.linux import set_parent_death_signal

__all__ = ["main"]

# Seconds between two looks at the processes, and between two at whether there is something to do.
_POLL, _LOOK = 0.2, 15.0
# Seconds until a process that ended by itself is started again: doubled each time that it did so soon.
_AGAIN, _LONGEST_AGAIN, _SOON = 0.5, 30.0, 10.0
# Seconds that a process has to end.
_GRACE = 40.0
# Attempts at once where nobody has said it: at least so many, and two for each processor.
_FEWEST = 4
_SERVING = "Serving environments at "


class Kept:
    """A process that is started again when it ends by itself.

    Args:
        listening: whether it says when it serves.
        without: variables that it does not get.
    """

    def __init__(
        self, arguments: Sequence[str], *, listening: bool = False, without: Collection[str] = ()
    ) -> None:
        self.arguments, self._listening = list(arguments), listening
        self._without = frozenset(without)
        self._pause, self._due = _AGAIN, 0.0
        self._process: subprocess.Popen[str] | None = None
        self._retired: list[subprocess.Popen[str]] = []
        self.serving = threading.Event()

    def retire(self, arguments: Sequence[str]) -> None:
        """Start it with other arguments; what runs takes nothing on any more, and goes on until it is done."""
        self.arguments = list(arguments)
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGUSR1)
            self._retired.append(process)

    def look(self) -> None:
        """Start it where it does not run."""
        self._retired = [one for one in self._retired if one.poll() is None]
        if self._process is not None and self._process.poll() is None:
            return
        now = time.monotonic()
        if self._process is not None:
            _say(f"{self.arguments[0]} has ended with {self._process.returncode}")
            soon = now - self._started < _SOON
            self._pause = min(_LONGEST_AGAIN, 2 * self._pause) if soon else _AGAIN
            self._process, self._due = None, now + self._pause
        if now >= self._due:
            self._start(now)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell it to, and wait."""
        running = [*self._retired, *([] if self._process is None else [self._process])]
        self._process, self._retired = None, []
        for process in running:
            process.send_signal(number)
        latest = time.monotonic() + _GRACE
        for process in running:
            try:
                process.wait(max(0.0, latest - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def status(self) -> int | None:
        """What it has ended with; None while it runs."""
        return None if self._process is None else self._process.poll()

    def _start(self, now: float) -> None:
        self._started, parent = now, os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "megaflow_server", *self.arguments],
            stdout=subprocess.PIPE if self._listening else None,
            text=True,
            env={name: value for name, value in os.environ.items() if name not in self._without},
            # It ends with this process, however that ends.
            preexec_fn=lambda: set_parent_death_signal(parent, signal.SIGTERM),
        )
        if self._listening:
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith(_SERVING):
                self.serving.set()


def main(folder: Path, idle: float, keys: Sequence[str]) -> int:
    """Runs until there is nothing to do for so many seconds, or SIGTERM; the exit status.

    Args:
        keys: variables with keys of models, which are the runner's alone: no environment gets them.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    address = f"unix:{folder / 's'}"
    store = f"sqlite:///{folder / 'tasks.db'}"
    with ExitStack() as stack:
        stack.enter_context(locked(folder / "server.lock", fcntl.LOCK_EX))
        (folder / "s").unlink(missing_ok=True)  # of a server that was killed
        serve = Kept(
            ["serve", "--listen", address, "--store", store, "--allow-import", "--runners", "0"],
            listening=True,
            without=keys,
        )
        stack.callback(serve.end)
        serve.look()
        while not serve.serving.wait(_POLL):
            if serve.status is not None or stopping.is_set():
                return 1
        said = {"address": address, "pid": os.getpid(), "keys": digests(keys)}
        return _run(folder, said, serve, idle, stopping, stack)


def _run(
    folder: Path,
    said: Mapping[str, Any],
    serve: Kept,
    idle: float,
    stopping: threading.Event,
    stack: ExitStack,
) -> int:
    address = str(said["address"])
    runner = Kept(_runner(folder, address))
    stack.callback(runner.end)
    stack.callback((folder / "server.json").unlink, missing_ok=True)
    runner.look()
    new = folder / "server.new"
    new.write_text(json.dumps(said))
    new.replace(folder / "server.json")
    busy = _Busy(address, idle)
    while not stopping.wait(_POLL):
        serve.look()
        if (arguments := _runner(folder, address)) != runner.arguments:
            runner.retire(arguments)
        runner.look()
        if busy.over() and busy.alone(folder, stack):
            _say("nothing is left to do")
            break
    return 0


def _runner(folder: Path, address: str) -> list[str]:
    """The runner's command, with the concurrency that was asked for last."""
    arguments = ["runner", "--server", address, "--trajectories", str(folder / "trajectories")]
    arguments += ["--pins", str(folder / "models"), "--allow-import", "--concurrency"]
    try:
        concurrency = int(json.loads((folder / "wanted.json").read_text())["concurrency"])
    except (OSError, ValueError, KeyError, TypeError):
        concurrency = max(_FEWEST, 2 * usable_cpus())
    return [*arguments, str(concurrency)]


class _Busy:
    """For how long there has been nothing to do."""

    def __init__(
        self, address: str, idle: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address, self._idle, self._clock = address, idle, clock
        self._since = self._looked = clock()

    def over(self) -> bool:
        """Whether there was nothing for `idle` seconds."""
        now = self._clock()
        if now - self._looked >= min(_LOOK, self._idle):
            self._looked = now
            if self._is_needed():
                self._since = now
        return now - self._since >= self._idle

    def alone(self, folder: Path, stack: ExitStack) -> bool:
        """Whether nobody uses the server; then nobody does until it has ended."""
        try:
            stack.enter_context(locked(folder / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            self._since = self._clock()
            return False
        return True

    def _is_needed(self) -> bool:
        """Whether tasks have yet to end, or sandboxes are kept for somebody to look at."""
        from megaflow import Client, MegaflowError

        try:
            with Client(self._address) as client:
                return any(job.done < job.total for job in client.jobs()) or any(
                    one.kind == "kept" for one in client.sandboxes()
                )
        except MegaflowError as error:
            _say(f"looking for jobs: {error.message}")
            return True


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} local server: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
