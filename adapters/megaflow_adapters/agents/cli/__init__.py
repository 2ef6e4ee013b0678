"""The agent `cli`: any command-line agent, run in the sandbox itself, with the attempt's models at a port there.

`agent` is what a runner makes.
"""

from __future__ import annotations

from megaflow_adapters.agents.cli.agent import CliAgent

__all__ = ["CliAgent"]
