"""The runner: a process that executes attempts, hundreds at once on one event loop, under one lease.

What belongs here: the lease and what is said to the orchestrator; environments as agents are handed them, recorded;
which failure makes a result invalid. docs/runner.md explains it.
"""

from __future__ import annotations
