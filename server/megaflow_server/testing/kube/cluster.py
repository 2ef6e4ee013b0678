"""A cluster for tests: the API server on a port of this machine, and what can happen to it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

from aiohttp import web

from megaflow_server.testing.kube.api import Api
from megaflow_server.testing.kube.pods import Container, Pods
from megaflow_server.testing.kube.store import Key, Refusal, Store

__all__ = ["FakeCluster"]

_HOST = "127.0.0.1"


class FakeCluster:
    """A cluster whose pods are local processes; an asynchronous context manager.

    Its pods have one container, the restart policy Never, and a command; images are names, and users, limits and
    volumes are stored but not kept.

    Attributes:
        address: where its API answers.
        api: what is counted of requests, and what they are refused: see `Api`.
        store: its objects.
        nodes: by name, the processors of each; what asks for more than any has left stays pending.
        missing: by image, what its registry says of it.
    """

    def __init__(self) -> None:
        self.store = Store()
        self._pods = Pods(self.store)
        self.api = Api(self.store, self._pods)
        self.nodes = self._pods.nodes
        self.missing = self._pods.missing
        self.address = ""
        self._port = 0
        self._runner: web.AppRunner | None = None
        self.store.create(Key("namespaces", "", "default"), {})

    async def __aenter__(self) -> FakeCluster:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._pods.close()
        await self._stop()

    def kubeconfig(self, namespace: str = "default") -> dict[str, Any]:
        """What a client's configuration file says, to reach it."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [
                {
                    "name": "fake",
                    "context": {"cluster": "fake", "user": "fake", "namespace": namespace},
                }
            ],
            "clusters": [{"name": "fake", "cluster": {"server": self.address}}],
            "users": [
                {"name": "fake", "user": {"token": self.api.token} if self.api.token else {}}
            ],
        }

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """The API is gone meanwhile, with all its connections; pods run on."""
        await self._stop()
        try:
            yield
        finally:
            await self._start()

    def kill(self, pod: str, namespace: str = "default") -> None:
        """SIGKILL a pod's process, as somebody else would."""
        self._container(pod, namespace).signal(signal.SIGKILL)

    def oom_kill(self, pod: str, namespace: str = "default") -> None:
        """The kernel ends a pod's process, which has outgrown its memory."""
        container = self._container(pod, namespace)
        container.reason = "OOMKilled"
        container.signal(signal.SIGKILL)

    def evict(self, pod: str, message: str, namespace: str = "default") -> None:
        """The kubelet ends a pod, whose node lacks something."""
        key = Key("pods", namespace, pod)
        container = self._container(pod, namespace)
        self._pods.ended(key, {"phase": "Failed", "reason": "Evicted", "message": message})
        container.signal(signal.SIGKILL)

    def lose_node(self, node: str) -> None:
        """A node goes for good: its pods fail and are collected."""
        del self.nodes[node]
        message = "PodGC: node no longer exists"
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
        for pod in self.store.select("pods", ""):
            if pod["spec"].get("nodeName") == node:
                metadata = pod["metadata"]
                key = Key("pods", metadata["namespace"], metadata["name"])
                status = {"phase": "Failed", "conditions": [condition | {"message": message}]}
                self._pods.ended(key, status)
                self._pods.delete(key, 0)

    def _container(self, pod: str, namespace: str) -> Container:
        key = Key("pods", namespace, pod)
        if key not in self._pods.containers:
            raise Refusal(404, "NotFound", f'pods "{pod}" does not run')
        return self._pods.containers[key]

    async def _start(self) -> None:
        self._runner = web.AppRunner(
            self.api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, _HOST, self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        self.address = f"http://{_HOST}:{self._port}"

    async def _stop(self) -> None:
        self.api.drop_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            await asyncio.sleep(0)
