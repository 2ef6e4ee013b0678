"""A process of this host as an instance, with whatever it started."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping

from megaflow_server.backends import spawn
from megaflow_server.backends.base import BareInstance, Exit, InstanceSpec, InstanceState

__all__ = ["ProcessInstance"]

_log = logging.getLogger(__name__)


class ProcessInstance(BareInstance):
    """A process, and whatever it started."""

    backend_name = "process"

    def __init__(self, spec: InstanceSpec, started: spawn.Started) -> None:
        self._spec = spec
        self._process = started.process
        self.mark = started.mark
        self.pidfd = started.pidfd
        self.feed = started.feed
        self.exit: Exit | None = None
        self.exited_at = 0.0
        self.left: list[int] = []  # process ids that outlived the main process, as last seen
        self._exited = asyncio.Event()
        self.gone = asyncio.Event()

    @property
    def id(self) -> str:
        return self._spec.id

    @property
    def labels(self) -> Mapping[str, str]:
        return self._spec.labels

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def state(self) -> InstanceState:
        return InstanceState.RUNNING if self.exit is None else InstanceState.EXITED

    async def wait(self) -> Exit:
        await self._exited.wait()
        assert self.exit is not None
        return self.exit

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone, if it still runs."""
        if self.exit is None:
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """SIGKILL the whole process group, as long as its id is surely its own: until it is reaped."""
        if not self.gone.is_set() and self.exit != Exit():
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError) as error:
                _log.debug("instance %s: killpg(%d): %s", self.id, self.pid, error)

    def ended(self) -> Exit:
        """Take down how the main process ended, and leave it a zombie, so that its id stays taken."""
        self.exit = _exit_of(self.pid)
        self.exited_at = time.monotonic()
        self._exited.set()
        self.feed.close()
        return self.exit

    def finish(self) -> None:
        """Reap the main process, once nothing else of the instance is left."""
        self._process.poll()
        os.close(self.pidfd)
        self.gone.set()


def _exit_of(pid: int) -> Exit:
    """How a child that has ended ended, without reaping it."""
    try:
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # somebody else in this process waits for any child
        return Exit()
    if result is None:
        return Exit()
    if result.si_code == os.CLD_EXITED:
        return Exit(code=result.si_status)
    return Exit(signal=result.si_status)
