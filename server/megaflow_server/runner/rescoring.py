"""Evaluated once more: a snapshot of an attempt's environment before it is judged, and an attempt that begins there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from megaflow.async_env import AsyncRemoteEnv
from megaflow.errors import FailedPrecondition, MegaflowError, NotFound
from megaflow.trajectory.records import Event
from megaflow_server.runner.environment import RecordedEnv
from megaflow_server.trajectories import TrajectoryWriter

__all__ = ["begin_from", "keep_snapshot"]

# Seconds for which one is kept that nobody uses: a night.
_KEPT: Final = 86400.0


async def keep_snapshot(env: AsyncRemoteEnv, writer: TrajectoryWriter) -> None:
    """Keep one; where that cannot be, the attempt goes on, and its trajectory says why."""
    try:
        data = {"id": await env.snapshot(keep_for=_KEPT)}
    except MegaflowError as error:
        data = {"failed": error.message}
    await writer.append(Event(name="snapshot", data=data))


async def begin_from(recorded: RecordedEnv, task_id: str, jobs: Sequence[str]) -> None:
    """Go on from the snapshot that there is of the same task and sample in the first of some jobs.

    Raises FailedPrecondition where none has one.
    """
    place = task_id.partition("/")[2]
    for job in jobs:
        try:
            await recorded.restore(f"{job}/{place}")
        except NotFound:
            continue
        return
    raise FailedPrecondition(
        f"there is no snapshot of {jobs[0]}/{place}: none was asked for (megaflow run --snapshot) or could be made "
        "(its trajectory says why), nobody used it for a day, or its server has ended since"
    )
