"""The agent `tool`: a model that calls tools, in a loop.

`agent` is the loop, `conversation` what the model is shown, and each other module the tools of one kind of environment:
`commands` where an action is a shell command, `actions` for any other.
"""

from __future__ import annotations

from megaflow_adapters.agents.tool.agent import ToolAgent

__all__ = ["ToolAgent"]
