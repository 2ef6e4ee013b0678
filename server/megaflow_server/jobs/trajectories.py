"""The trajectories of a job: where its results say that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megaflow.errors import NotFound
from megaflow.trajectory.places import source_at
from megaflow_server.jobs.results import Gathered

__all__ = ["Lying", "trajectories_of"]


@dataclass(frozen=True)
class Lying:
    """Where a job's trajectories are.

    Attributes:
        paths: for readers, in the order of the tasks.
        absent: of samples that have ended, why there is none: each a sentence.
    """

    paths: Sequence[str]
    absent: Sequence[str]


def trajectories_of(gathered: Gathered) -> Lying:
    """The trajectory of each sample that has ended: that of the attempt that its result is of."""
    paths: list[str] = []
    absent: list[str] = []
    for _, result in sorted(gathered.results.items()):
        if not result.trajectory:
            absent.append(f"{result.task_id} was {result.state} before anything was written")
            continue
        try:
            source_at(result.trajectory).read(0, 1)
        except NotFound:
            absent.append(f"{result.task_id}: {result.trajectory} cannot be seen from here")
            continue
        paths.append(result.trajectory)
    return Lying(paths, absent)
