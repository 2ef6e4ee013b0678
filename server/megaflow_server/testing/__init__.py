"""Conformance suites for what the server's authors write: subclass one, say how to make yours, run pytest.

Nothing that a running server needs; each module is one contract as tests, and imports pytest. `kube/` is a cluster for
tests to run against.
"""

from __future__ import annotations
