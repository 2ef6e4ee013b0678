"""`megaflow/Terminal-v0`: tasks in the format of Harbor and Terminal-Bench 2, by shell commands."""

from __future__ import annotations

from megaflow_envs.terminal.env import TerminalEnv

__all__ = ["TerminalEnv"]
