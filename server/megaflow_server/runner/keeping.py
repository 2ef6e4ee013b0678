"""Keeping the lease, in a thread of its own: whatever an agent does to the event loop, it is renewed in time.

Where it cannot be renewed, all attempts are to stop. An event loop that does not come to stopping them, because an
agent blocks it, is ended with its process: the orchestrator gives the attempts to others.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from megaflow.errors import FailedPrecondition, MegaflowError, NotFound
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.control import Control
from megaflow.transport.credentials import Target
from megaflow.transport.io import BlockingCaller, run
from megaflow_server.runner.lease import Lease

__all__ = ["Keeper", "Name"]

logger = logging.getLogger(__name__)

# An attempt: its task and its fence.
Name = tuple[str, int]
# Seconds between the end of the lease and that of a process which has not stopped: the orchestrator waits for
# five before it gives the attempts to others.
_GRACE = 3.0


class Keeper:
    """Renews one lease until it is closed, or lost.

    Args:
        revoked: told which attempts to stop, in the thread.
        lost: told that all are to stop, in the thread.
        end: ends the process.
    """

    def __init__(
        self,
        target: Target,
        runner_id: str,
        lease: Lease,
        *,
        revoked: Callable[[Sequence[Name]], None],
        lost: Callable[[str], None],
        end: Callable[[], None] = lambda: os._exit(70),
    ) -> None:
        self._target = target
        self._request = pb.RunnerRequest(runner_id=runner_id)
        self._lease = lease
        self._revoked = revoked
        self._lost = lost
        self._end = end
        self._closed = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="megaflow-lease", daemon=True)
        self._thread.start()

    def stopped(self) -> None:
        """All attempts have stopped since the lease was lost."""
        self._stopped.set()

    def close(self) -> None:
        """Renew it no more; whoever waits for its attempts waits for its end."""
        self._closed.set()
        self._stopped.set()
        self._thread.join()

    def _keep(self) -> None:
        caller = BlockingCaller(self._target)
        control = Control(caller, self._target.address, pb.HelloResponse(), "")
        try:
            while self._lease.held and not self._closed.wait(self._lease.wait()):
                if self._lease.held:
                    self._renew(control)
        finally:
            run(control.close())
        if not self._closed.is_set():
            self._lost("the orchestrator was out of reach until the lease ran out")
            if not self._stopped.wait(_GRACE):
                logger.critical("attempts do not stop: this process ends with them")
                self._end()

    def _renew(self, control: Control) -> None:
        sent = time.monotonic()
        try:
            answer = run(control.call("RenewRunner", self._request, self._lease.patience()))
        except (NotFound, FailedPrecondition) as error:
            logger.error("the lease is lost: %s", error.message)
            self._lease.lose()
        except MegaflowError as error:
            logger.warning("a renewal failed: %s", error.message)
            self._lease.failed()
        else:
            self._lease.answered(sent)
            if answer.revoked:
                self._revoked([(name.task_id, name.fence) for name in answer.revoked])
