"""What Linux offers so that no process outlives the one it belongs to.

The standard library alone, since a worker's main calls this before it imports anything else. Every
failure is an `OSError` that says what is missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys

__all__ = ["become_subreaper", "set_parent_death_signal"]

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def set_parent_death_signal(expected_parent: int, signal_number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process `signal_number` when its parent ends.

    It fires when the *thread* that started this process ends, and neither children nor a
    set-user-id program inherit it (prctl(2)). A parent that ended before this call sends nothing
    any more, so the parent's id is compared afterwards.

    Raises:
        ProcessLookupError: the parent is another process than `expected_parent`: that one is gone.
    """
    _prctl(_PR_SET_PDEATHSIG, int(signal_number))
    parent = os.getppid()
    if parent != expected_parent:
        raise ProcessLookupError(
            errno.ESRCH,
            f"process {expected_parent}, which started this one, is gone (its parent is {parent} now)",
        )


def become_subreaper() -> None:
    """Make this process the parent of every descendant whose own parent has ended, in place of init.

    Holds for the whole process until it ends, and may be called again. Whoever calls this takes on
    the reaping of what it adopts.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        raise OSError(
            errno.ENOSYS,
            f"the megaflow server needs Linux, and this is {sys.platform}: run it in a container "
            "or on a Linux host, and connect to it with server='host:port'",
        )
    libc = ctypes.CDLL(None, use_errno=True)
    argument = ctypes.c_ulong(value)
    unused = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(option), argument, unused, unused, unused) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")
