"""Trajectories: what happened in an attempt, record by record, as files that can be trusted.

What belongs here: the format, reading it, and exports to other formats. Writing is the server's. The format is
described in docs/trajectories.md.
"""

from __future__ import annotations

from megaflow.trajectory.blobs import Blob
from megaflow.trajectory.frames import Dropped
from megaflow.trajectory.places import find
from megaflow.trajectory.reader import TrajectoryReader
from megaflow.trajectory.records import (
    End,
    Event,
    Failure,
    ModelCall,
    Record,
    Reset,
    Start,
    Step,
    Verdict,
)

__all__ = [
    "Blob",
    "Dropped",
    "End",
    "Event",
    "Failure",
    "ModelCall",
    "Record",
    "Reset",
    "Start",
    "Step",
    "TrajectoryReader",
    "Verdict",
    "find",
]
