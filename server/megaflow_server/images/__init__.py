"""Images of tasks: which there must be, and having them, several at a time and each once.

Nothing here knows an engine: `Builds` is what one must be able to do, and the docker backend's is one.
"""

from __future__ import annotations

from megaflow_server.images.builder import Builder, Builds, Outcome
from megaflow_server.images.demand import OnDemand
from megaflow_server.images.plan import Wanted, plan

__all__ = ["Builder", "Builds", "OnDemand", "Outcome", "Wanted", "plan"]
