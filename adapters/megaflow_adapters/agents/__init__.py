"""Agents: `random`, `scripted`, `oracle` and `nop`, which need nothing else, and `tool`, which needs a model.

Each is a `megaflow.agent.Agent`.
"""

from __future__ import annotations
