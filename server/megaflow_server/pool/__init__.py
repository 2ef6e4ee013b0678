"""Pools: instances that wait for sessions, are leased to them, reset, verified and used again.

`state` decides without doing anything, `pool` does what it decides, over a backend, and `pools` has all of
them; `host` and `rooms` are what instances look like from here, `probe` compares a used one with a fresh one,
`reaper` destroys what nobody means to have. What runs in an instance is not known here.
"""

from __future__ import annotations

from megaflow_server.pool.leased import Leased, Lender, PoolStatus
from megaflow_server.pool.pools import Pools

__all__ = ["Leased", "Lender", "PoolStatus", "Pools"]
