"""`megaflow/SWE-v0`: SWE-bench-style tasks, by shell commands in a repository."""

from __future__ import annotations

from megaflow_envs.swe.env import SWEEnv
from megaflow_envs.swe.rows import Row, load_row, load_rows

__all__ = ["Row", "SWEEnv", "load_row", "load_rows"]
