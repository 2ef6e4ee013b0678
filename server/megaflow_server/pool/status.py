"""A pool's state in numbers and words, for people."""

from __future__ import annotations

from megaflow_server.pool.leased import PoolStatus
from megaflow_server.pool.state import PoolState
from megaflow_server.templates import Template

__all__ = ["status_of"]


def status_of(state: PoolState, template: Template, backend: str) -> PoolStatus:
    """How a pool is at this moment."""
    count = state.members.count
    return PoolStatus(
        template=template.name,
        image=template.image,
        backend=backend,
        mode=state.choice.mode,
        ready=count("ready"),
        leased=count("leased"),
        creating=count("creating"),
        resetting=count("resetting"),
        ending=count("ending"),
        waiting=len(state.claims),
        target=state.wanted,
        max=state.size.max,
        created=state.created_count,
        reused=state.reused,
        quarantined=state.quarantined,
        failed=state.failed,
        breaker=state.breaker.why,
        fault=state.fault,
        create_seconds=state.choice.create_seconds,
        reset_seconds=state.choice.reset_seconds,
    )
