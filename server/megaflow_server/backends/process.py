"""Instances as processes of this host.

This is not a security boundary: an instance runs as the server's own user and can do whatever that
user can. What this backend promises is housekeeping: a death is noticed at once, and what an
instance started ends with it, also what has made itself a daemon. It makes the server's process the
subreaper of all its descendants. Where the server itself is killed, an instance ends only if it has
called `megaflow_server.linux.set_parent_death_signal`, as workers do first of all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence

from megaflow.errors import DeadlineExceeded, FailedPrecondition
from megaflow_server import janitor, marks
from megaflow_server.backends import descendants, spawn
from megaflow_server.backends.base import (
    Event,
    Image,
    InstanceSpec,
    Progress,
    check_grace,
    has_labels,
    honour_only,
    lacks,
    require,
)
from megaflow_server.backends.events import EventHub, Subscription
from megaflow_server.backends.process_instance import ProcessInstance
from megaflow_server.linux import become_subreaper

__all__ = ["ProcessBackend"]

_log = logging.getLogger(__name__)

# How long `destroy` waits after SIGKILL; only an uninterruptible system call or another user's
# process takes this long.
_GONE_SECONDS = 10.0
# Between two looks at what a dead instance left behind: killed processes are gone within
# milliseconds.
_SWEEP_FIRST_SECONDS = 0.005
_SWEEP_MOST_SECONDS = 1.0
# Between two looks for orphans that ended by themselves: nothing waits for these, they only take up
# ids.
_REAP_SECONDS = 1.0


class ProcessBackend:
    """Processes of this host; use it from the event loop of the process's main thread.

    Raises:
        FailedPrecondition: this is not Linux.
    """

    name = "process"
    about = "process: processes of this host, which are no security boundary"
    profile = None
    place = None

    def __init__(self) -> None:
        try:
            become_subreaper()
        except OSError as error:
            raise FailedPrecondition(f"the process backend cannot work here: {error}") from error
        self._instances: dict[str, ProcessInstance] = {}
        self._known: dict[tuple[int, int], str] = {}  # the last sweep's findings
        self._events = EventHub()
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _SWEEP_FIRST_SECONDS

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def create(self, spec: InstanceSpec) -> ProcessInstance:
        if threading.current_thread() is not threading.main_thread():
            raise FailedPrecondition(
                f"instance {spec.id}: the process backend starts processes from the main thread "
                "alone, because a parent-death signal fires when the thread that started a process "
                "ends; run the server's event loop there"
            )
        existing = self._instances.get(spec.id)
        if existing is not None:
            return existing
        honour_only(spec, frozenset(), self.name)
        loop = asyncio.get_running_loop()
        instance = ProcessInstance(spec, spawn.start(spec, loop))
        self._instances[spec.id] = instance
        self._events.publish(Event(spec.id, "running"))
        loop.add_reader(instance.pidfd, self._on_exit, instance)
        self._look_in(_REAP_SECONDS)
        return instance

    async def destroy(self, instance_id: str, *, grace: float) -> None:
        check_grace(grace)
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        if grace > 0:
            instance.signal(signal.SIGTERM)
            await _within(grace, instance.wait())
        instance.kill()
        if not await _within(_GONE_SECONDS, instance.gone.wait()):
            stuck = [instance.pid] if instance.exit is None else instance.left
            raise DeadlineExceeded(
                f"instance {instance_id}: processes {stuck} are still there {_GONE_SECONDS:g} s after "
                "SIGKILL; they may be stuck in a system call, or run as another user"
            )
        if self._instances.get(instance_id) is instance:
            del self._instances[instance_id]

    async def list(self, labels: Mapping[str, str]) -> Sequence[ProcessInstance]:
        return [instance for instance in self._instances.values() if has_labels(instance, labels)]

    def processes(self, instance_id: str) -> Sequence[int]:
        table, owners = self._owned(list(self._instances.values()))
        main = self._instances[instance_id].pid if instance_id in self._instances else None
        return [
            pid
            for pid, owner in owners.items()
            if owner == instance_id and pid != main and not table[pid].zombie
        ]

    def events(self) -> Subscription:
        return self._events.subscribe()

    def capabilities(self) -> frozenset[str]:
        return frozenset()

    async def prepare(self, image: str, progress: Progress | None = None) -> None:
        require(self, "images")

    async def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        lacks(self.name, "commit")

    async def remove(self, image: str) -> None:
        lacks(self.name, "commit")

    def _on_exit(self, instance: ProcessInstance) -> None:
        asyncio.get_running_loop().remove_reader(instance.pidfd)
        how = instance.ended()
        instance.kill()
        self._events.publish(Event(instance.id, "exited", how))
        self._pause = _SWEEP_FIRST_SECONDS
        self._look_in(0)

    def _look_in(self, seconds: float) -> None:
        """Look after orphans in `seconds`, or when it is due already, whichever is sooner."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        present = [one for one in self._instances.values() if not one.gone.is_set()]
        dying = [instance for instance in present if instance.exit is not None]
        if dying or _any_zombie():
            self._sweep(present)
        if any(not instance.gone.is_set() for instance in dying):
            self._look_in(self._pause)
            self._pause = min(self._pause * 2, _SWEEP_MOST_SECONDS)
        elif present:
            self._look_in(_REAP_SECONDS)

    def _sweep(self, present: Sequence[ProcessInstance]) -> None:
        """Kill what dead instances left behind, reap orphans, and finish the instances that are clean.

        A pass that kills, or meets a zombie, is not the last: a process that was killed while the
        table was read may have started another.
        """
        by_id = {instance.id: instance for instance in present}
        for instance in present:
            instance.left = []
        table, owners = self._owned(present)
        for pid, owner in owners.items():
            instance, process = by_id[owner], table[pid]
            if pid == instance.pid:
                continue
            if process.zombie:
                instance.left.append(pid)
                if process.parent == os.getpid():
                    _reap(pid)
            elif instance.exit is not None:
                instance.left.append(pid)
                _kill(instance, process)
        for instance in present:
            if instance.exit is not None and not instance.left:
                instance.finish()

    def _owned(
        self, instances: Sequence[ProcessInstance]
    ) -> tuple[dict[int, marks.Process], dict[int, str]]:
        """The descendants of this process, and those among them that belong to one of these instances."""
        present = [one for one in instances if not one.gone.is_set()]
        table = descendants.descendants(os.getpid())
        leaders = {instance.pid: instance.id for instance in present}
        carried = [(instance.id, instance.mark) for instance in present]
        owners = descendants.owners(table, leaders, carried, self._known)
        self._known = {table[pid].identity: owner for pid, owner in owners.items()}
        return table, owners


def _kill(instance: ProcessInstance, process: marks.Process) -> None:
    patient = time.monotonic() < instance.exited_at + janitor.PATIENCE
    if patient and janitor.tidies(process.pid):
        return  # a server that ran in the instance was killed just now, and this tidies up behind it
    try:
        marks.kill(process)
    except PermissionError:  # `destroy` names it, once its time is over
        _log.debug("instance %s: process %d runs as another user", instance.id, process.pid)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        _log.debug("process %d was reaped elsewhere", pid)


def _any_zombie() -> bool:
    """Whether some child of this process waits to be reaped, as cheaply as the kernel can say so."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


async def _within(seconds: float, awaitable: Awaitable[object]) -> bool:
    """Whether it finishes in time; it is cancelled where it does not."""
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        return False
    return True
