"""The end of a container: it is told, it is killed, it is removed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from megaflow.errors import DeadlineExceeded
from megaflow_server.backends.base import Exit
from megaflow_server.backends.docker.calls import Calls
from megaflow_server.backends.docker.failures import EngineRefusal, refusal
from megaflow_server.backends.docker.instance import DockerInstance

__all__ = ["GONE_SECONDS", "remove", "signal", "within"]

_log = logging.getLogger(__name__)

# How long a container may be there after SIGKILL.
GONE_SECONDS = 10.0
_LONGEST_PAUSE = 0.5


async def signal(calls: Calls, instance: DockerInstance, name: str) -> bool:
    """Send a signal to the main process; whether it was there to get it."""
    if instance.exit is not None:
        return False
    try:
        await calls("kill", instance.container, name)
    except EngineRefusal as error:
        if error.status in (404, 409):  # gone, or not running
            return False
        raise refusal(f"instance {instance.id} cannot be ended", error) from error
    return True


async def remove(calls: Calls, instance: DockerInstance) -> None:
    """Remove a container with its volumes; an engine that is busy with it is asked again."""
    deadline, pause = time.monotonic() + GONE_SECONDS, 0.01
    while True:
        try:
            await calls("remove_container", instance.container, v=True, force=True)
            return
        except EngineRefusal as error:
            if error.status == 404:
                return
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"instance {instance.id}: its container is still there {GONE_SECONDS:g} s after "
                    f"SIGKILL: {error.message}"
                ) from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def within(seconds: float, work: Coroutine[Any, Any, Exit]) -> None:
    """Wait for it, this long at most."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        _log.debug("not within %g s", seconds)
