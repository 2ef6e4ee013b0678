"""Imported by workers, has each tenth episode of terminals and repositories, of all workers together, kill its own."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
from collections.abc import Callable
from typing import Any

from megaflow_envs.commands import CommandEnv

VARIABLE = "MEGAFLOW_TEST_FAULTS"
# Of so many, one; the fifth is the first.
_EVERY, _FIRST = 10, 5
_COUNTED = "counted_by_the_test"


def _count() -> int:
    """The place of this episode among those of all workers."""
    counter = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.flock(counter, fcntl.LOCK_EX)
        os.write(counter, b".")
        return os.fstat(counter).st_size
    finally:
        os.close(counter)


def _dying(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, before which a worker dies if it is an episode's first of these and the episode is one of those."""

    @functools.wraps(call)
    def made(self: CommandEnv, *arguments: Any) -> Any:
        if not getattr(self, _COUNTED, False):
            setattr(self, _COUNTED, True)
            if _count() % _EVERY == _FIRST:
                os.kill(os.getpid(), signal.SIGKILL)
        return call(self, *arguments)

    return made


# Not in a reset: an environment that is lost there is made anew, without a retry.
if VARIABLE in os.environ:
    for name in ("step", "evaluate"):
        setattr(CommandEnv, name, _dying(getattr(CommandEnv, name)))
