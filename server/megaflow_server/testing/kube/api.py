"""The API over HTTP: objects are made, read, listed, watched and removed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from megaflow_server.testing.kube import channels, pods
from megaflow_server.testing.kube.pods import Container, Pods
from megaflow_server.testing.kube.selectors import Selector, selector
from megaflow_server.testing.kube.store import Change, Key, Object, Refusal, Store

__all__ = ["Api"]

# Resources that there are: where, and what an object of them calls itself.
_KINDS = {
    "configmaps": ("v1", "ConfigMap"),
    "events": ("v1", "Event"),
    "namespaces": ("v1", "Namespace"),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy"),
    "pods": ("v1", "Pod"),
}
_LARGEST = 3 << 20
_PATHS = ("/api/v1", "/apis/{group}/{version}")


class Api:
    """What answers requests.

    Attributes:
        requests: how often what was asked for: "list pods", "watch pods", "create pods", "get", "delete", "exec", ….
        refusals: by such a name, what its next requests are refused with, in order.
        quota: by namespace, how many pods it may have.
        bookmark_seconds: between two bookmarks of a watch.
        token: what clients must show; "" for nothing.
    """

    def __init__(self, store: Store, kubelet: Pods) -> None:
        self.requests: Counter[str] = Counter()
        self.refusals: dict[str, list[Refusal]] = {}
        self.quota: dict[str, int] = {}
        self.bookmark_seconds = 60.0
        self.token = ""
        self._store = store
        self._pods = kubelet
        self._dropping = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._answer], client_max_size=_LARGEST)
        app.router.add_get("/version", self._version)
        for path in _PATHS:
            for prefix in (path, f"{path}/namespaces/{{namespace}}"):
                app.router.add_get(f"{prefix}/{{resource}}", self._list)
                app.router.add_post(f"{prefix}/{{resource}}", self._create)
                app.router.add_get(f"{prefix}/{{resource}}/{{name}}", self._get)
                app.router.add_delete(f"{prefix}/{{resource}}/{{name}}", self._delete)
        pod = "/api/v1/namespaces/{namespace}/pods/{name}"
        for way, handler in (("exec", self._exec), ("attach", self._attach)):
            for method in ("GET", "POST"):
                app.router.add_route(method, f"{pod}/{way}", handler)
        app.router.add_get(f"{pod}/log", self._log)
        return app

    def drop_watches(self) -> None:
        """End every watch that there is."""
        self._dropping.set()
        self._dropping = asyncio.Event()

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                raise Refusal(401, "Unauthorized", "Unauthorized")
            return await handler(request)
        except Refusal as error:
            headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return web.json_response(error.status(), status=error.code, headers=headers)

    def _asked(self, request: web.Request, verb: str) -> Key:
        """What a request is about, counted; its turn to be refused may have come."""
        found = request.match_info
        resource = found.get("resource", "pods")
        group = "/".join(found[part] for part in ("group", "version") if part in found) or "v1"
        if _KINDS.get(resource, ("", ""))[0] != group:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        what = f"{verb} {resource}"
        self.requests[what] += 1
        if refusals := self.refusals.get(what):
            raise refusals.pop(0)
        return Key(resource, found.get("namespace", ""), found.get("name", ""))

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "31", "gitVersion": "v1.31.0"})

    async def _get(self, request: web.Request) -> web.Response:
        key = self._asked(request, "get")
        return web.json_response(_whole(key.resource, self._store.get(key)))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        chosen = selector(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if query.get("watch", "") in ("true", "True", "1"):
            return await self._watch(request, self._asked(request, "watch"), chosen)
        key = self._asked(request, "list")
        items = [
            _whole(key.resource, one) for one in self._store.select(key.resource, key.namespace)
        ]
        version, kind = _KINDS[key.resource]
        return web.json_response(
            {
                "kind": f"{kind}List",
                "apiVersion": version,
                "metadata": {"resourceVersion": str(self._store.version)},
                "items": [one for one in items if chosen(one)],
            }
        )

    async def _create(self, request: web.Request) -> web.Response:
        key = self._asked(request, "create")
        try:
            body = await request.json()
            name = body["metadata"]["name"]
        except (ValueError, KeyError, TypeError):
            raise Refusal(400, "BadRequest", "the body is no object with metadata.name") from None
        key = Key(key.resource, key.namespace, name)
        if key.namespace:
            self._store.get(Key("namespaces", "", key.namespace))
        if key.resource != "pods":
            return web.json_response(
                _whole(key.resource, self._store.create(key, body)), status=201
            )
        pods.check(body)
        self._within_quota(key)
        made = self._store.create(key, body | {"status": {"phase": "Pending"}})
        answer = web.json_response(_whole("pods", made), status=201)
        asyncio.get_running_loop().call_soon(self._pods.retry)
        return answer

    def _within_quota(self, key: Key) -> None:
        most = self.quota.get(key.namespace)
        used = len(self._store.select("pods", key.namespace))
        if most is not None and used >= most:
            limits = f"requested: pods=1, used: pods={used}, limited: pods={most}"
            message = f'pods "{key.name}" is forbidden: exceeded quota: pods, {limits}'
            raise Refusal(403, "Forbidden", message)

    async def _delete(self, request: web.Request) -> web.Response:
        key = self._asked(request, "delete")
        body = await request.json() if request.can_read_body else {}
        grace = (body or {}).get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        if key.resource == "pods":
            default = self._store.get(key)["spec"].get("terminationGracePeriodSeconds", 30)
            removed = self._pods.delete(key, default if grace is None else int(grace))
        else:
            removed = self._store.remove(key)
            self._collect(removed)
        return web.json_response(_whole(key.resource, removed))

    def _collect(self, removed: Object) -> None:
        """What a removed object owned goes, too."""
        for key in self._store.owned(removed["metadata"]["uid"]):
            if key.resource == "pods":
                self._pods.delete(key, 1)
            else:
                self._collect(self._store.remove(key))

    async def _watch(self, request: web.Request, key: Key, chosen: Selector) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", "3600"))):
                await self._tell(request, response, key, chosen)
        return response

    async def _tell(
        self, request: web.Request, response: web.StreamResponse, key: Key, chosen: Selector
    ) -> None:
        """Changes as they come, until watches are dropped or the version is too old."""
        dropping = asyncio.ensure_future(self._dropping.wait())
        told = int(request.query.get("resourceVersion", "") or 0)
        if told == 0:
            told = self._store.version
            for found in self._store.select(key.resource, key.namespace):
                if chosen(found):
                    await _line(response, "ADDED", _whole(key.resource, found))
        bookmarks = request.query.get("allowWatchBookmarks", "") in ("true", "True", "1")
        try:
            while not dropping.done():
                try:
                    changes = list(self._store.since(told))
                except Refusal as error:
                    await _line(response, "ERROR", error.status())
                    return
                news = asyncio.ensure_future(self._store.news())
                for change in changes:
                    told = change.version
                    await _change(response, change, key, chosen)
                await asyncio.wait(
                    [news, dropping], timeout=self.bookmark_seconds, return_when="FIRST_COMPLETED"
                )
                if not news.done() and bookmarks:
                    mark = {"metadata": {"resourceVersion": str(told)}}
                    await _line(response, "BOOKMARK", _whole(key.resource, mark))
                news.cancel()
        finally:
            dropping.cancel()

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        pod, container = self._running(self._asked(request, "exec"))
        return await channels.execute(request, pod, container)

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        _, container = self._running(self._asked(request, "attach"))
        return await channels.attach(request, container)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        """A pod's output from its start, and as it comes where that is asked for."""
        key = self._asked(request, "log")
        self._store.get(key)
        container = self._pods.containers.get(key)
        if container is None:
            raise Refusal(400, "BadRequest", f'container of pod "{key.name}" is waiting to start')
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        sent = 0
        while True:
            part = bytes(container.output[sent:])
            sent += len(part)
            if part:
                await response.write(part)
            elif container.over or request.query.get("follow", "") not in ("true", "True", "1"):
                return response
            else:
                await container.news()

    def _running(self, key: Key) -> tuple[Object, Container]:
        pod = self._store.get(key)
        phase = pod["status"]["phase"]
        if phase in ("Succeeded", "Failed"):
            message = f"cannot exec into a container in a completed pod; current phase is {phase}"
            raise Refusal(400, "BadRequest", message)
        container = self._pods.containers.get(key)
        if container is None:
            raise Refusal(500, "InternalError", f'pod "{key.name}": container not found')
        return pod, container


def _whole(resource: str, found: Object) -> Object:
    version, kind = _KINDS[resource]
    return {"kind": kind, "apiVersion": version} | found


async def _change(response: web.StreamResponse, change: Change, key: Key, chosen: Selector) -> None:
    """Tell a change to a watch that it matters to: what it no longer chooses is deleted for it."""
    if change.key.resource != key.resource or key.namespace not in ("", change.key.namespace):
        return
    was = change.before is not None and chosen(change.before)
    matches = chosen(change.object)
    if not was and not matches:
        return
    kind = change.kind
    if kind == "MODIFIED" and was != matches:
        kind = "ADDED" if matches else "DELETED"
    await _line(response, kind, _whole(key.resource, change.object))


async def _line(response: web.StreamResponse, kind: str, found: dict[str, Any]) -> None:
    await response.write(json.dumps({"type": kind, "object": found}).encode() + b"\n")
