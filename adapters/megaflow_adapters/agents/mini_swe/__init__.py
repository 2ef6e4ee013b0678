"""The agent `mini-swe-agent`: that package's own loop, with a task's environment and the attempt's model.

`agent` is what a runner makes, `bridge` leads from the package's thread to the event loop, and `scaffold`, which alone
imports the package, has what it takes for an environment and a model.
"""

from __future__ import annotations

from megaflow_adapters.agents.mini_swe.agent import MiniSweAgent

__all__ = ["MiniSweAgent"]
