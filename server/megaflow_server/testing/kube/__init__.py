"""A Kubernetes API server of ours, for tests: what a cluster says, with local processes as its pods.

`cluster.FakeCluster` is the whole. `store` keeps objects and tells of changes, `selectors` choose among them, `api`
speaks HTTP, `pods` stands in for scheduler and kubelet, `channels` carries programs over websockets. Nothing here
imports a Kubernetes client, nor pytest.
"""

from __future__ import annotations
