"""What a task takes of a runner: what it requests, corrected with what attempts like it were measured to use.

Attempts in one environment, of one tenant, are alike. What is corrected is what is set aside; what an attempt may use
at most, its limit, is never touched.
"""

from __future__ import annotations

from typing import Final

from megaflow_server.orchestrator.changing import changed
from megaflow_server.orchestrator.records import Peak, Resources, Task

__all__ = ["MEASURED", "measured", "takes"]

# Attempts that have to be measured before it is believed.
MEASURED: Final = 5
# What is set aside beside the highest use that was seen.
_HEADROOM: Final = 1.25
# How much of its distance to a lower measurement the highest one gives up: an outlier is forgotten after some fifty.
_FORGETS: Final = 0.05


def measured(known: Peak, used: Resources) -> Peak:
    """A peak after another attempt, which used so much at most."""
    return changed(
        known,
        count=known.count + 1,
        cpu=_after(known.cpu, used.cpu),
        memory=round(_after(known.memory, used.memory)),
    )


def _after(peak: float, used: float) -> float:
    return max(used, peak - _FORGETS * (peak - used))


def takes(task: Task, peak: Peak | None, capacity: Resources) -> Resources:
    """What is set aside for a task on a runner.

    Args:
        capacity: the runner's: where more was measured than it has, or where it does not say, the task's own
            request stands, so that no task waits for a runner that does not exist.
    """
    asked = task.requests
    if peak is None or peak.count < MEASURED:
        return asked
    return Resources(
        asked.slots,
        min(peak.cpu * _HEADROOM, max(asked.cpu, capacity.cpu)),
        min(round(peak.memory * _HEADROOM), max(asked.memory, capacity.memory)),
    )
