"""How many CPUs there are for us; without what reading a configuration takes."""

from __future__ import annotations

import os
import sys

__all__ = ["usable_cpus"]


def usable_cpus() -> int:
    """The CPUs that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
