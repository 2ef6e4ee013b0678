"""Writing trajectories: one file per attempt, many attempts on one event loop.

What belongs here: files that are appended to and synced, group commit, uploads to a store. The format, and reading
it, are the SDK's, megaflow.trajectory.
"""

from __future__ import annotations

from megaflow_server.trajectories.store import TrajectoryStore
from megaflow_server.trajectories.writer import TrajectoryWriter

__all__ = ["TrajectoryStore", "TrajectoryWriter"]
