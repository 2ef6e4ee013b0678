"""The API server for tests, as the official client sees it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType
from kubernetes import client, config, stream, watch

from megaflow_server.testing.kube.cluster import FakeCluster
from megaflow_server.testing.kube.store import Refusal
from process_scripts import PATIENCE

IDLE = ("sleep", "1000")


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster() as cluster:
        yield cluster


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once a condition holds, asked for over and over."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - of a cluster, which sets no event here
            await asyncio.sleep(0.01)


class Client:
    """The official client, each call of it in a thread."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._api = config.new_client_from_config_dict(cluster.kubeconfig())
        self._core = client.CoreV1Api(self._api)

    async def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.to_thread(getattr(self._core, name), *args, **kwargs)

    async def create(self, name: str, *argv: str, **extra: Any) -> Any:
        body = pod(name, *(argv or IDLE), **extra)
        return await self("create_namespaced_pod", "default", body)

    async def phase(self, name: str, wanted: str) -> Any:
        """The pod, once it is in a phase."""
        found: list[Any] = []

        async def arrived() -> bool:
            found[:] = [await self("read_namespaced_pod", name, "default")]
            return bool(found[0].status.phase == wanted)

        await until(arrived)
        return found[0]

    async def is_empty(self) -> bool:
        return not (await self("list_namespaced_pod", "default")).items

    def close(self) -> None:
        close(self._api)


@pytest.fixture
async def api(cluster: FakeCluster) -> AsyncIterator[Client]:
    api = Client(cluster)
    yield api
    api.close()


def close(api: client.ApiClient) -> None:
    """Close it, with the connections that its own `close` leaves open."""
    api.close()
    api.rest_client.pool_manager.clear()


def pod(
    name: str, *argv: str, labels: dict[str, str] | None = None, **extra: Any
) -> dict[str, Any]:
    container = {"name": "main", "image": "image:1", "command": list(argv), **extra}
    metadata = {"name": name, "labels": labels or {}}
    return {"metadata": metadata, "spec": {"restartPolicy": "Never", "containers": [container]}}


async def refused(call: Any) -> client.ApiException:
    with pytest.raises(client.ApiException) as error:
        await call
    return error.value


async def test_a_pod_runs_a_process_to_its_end(api: Client) -> None:
    await api.create("a", "sh", "-c", 'echo "$WHO"; exit 3', env=[{"name": "WHO", "value": "me"}])
    found = await api.phase("a", "Failed")
    assert found.status.container_statuses[0].state.terminated.exit_code == 3
    assert await api("read_namespaced_pod_log", "a", "default") == "me\n"


async def test_a_pod_that_is_deleted_ends_by_sigterm_and_is_gone(api: Client) -> None:
    await api.create("a")
    await api.phase("a", "Running")
    await api("delete_namespaced_pod", "a", "default", grace_period_seconds=1000)
    await until(api.is_empty)


async def test_a_second_deletion_can_shorten_the_grace(cluster: FakeCluster, api: Client) -> None:
    await api.create("a", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 100; done")
    await api.phase("a", "Running")

    async def is_ready() -> bool:
        return bool(await api("read_namespaced_pod_log", "a", "default") == "ready\n")

    await until(is_ready)
    await api("delete_namespaced_pod", "a", "default", grace_period_seconds=1000)
    assert (await api("read_namespaced_pod", "a", "default")).metadata.deletion_timestamp
    await api("delete_namespaced_pod", "a", "default", grace_period_seconds=1)
    await until(api.is_empty)


async def test_what_is_there_and_what_is_not_is_refused_as_the_api_does(api: Client) -> None:
    await api.create("a")
    assert (await refused(api.create("a"))).status == 409
    assert (await refused(api("read_namespaced_pod", "b", "default"))).status == 404
    assert (await refused(api("create_namespaced_pod", "absent", pod("a", "true")))).status == 404
    several = pod("b", "true") | {"spec": {"restartPolicy": "Always", "containers": [{}]}}
    assert (await refused(api("create_namespaced_pod", "default", several))).status == 422


async def test_selectors_choose(api: Client) -> None:
    await api.create("a", labels={"run": "1", "kind": "x"})
    await api.create("b", "false", labels={"run": "2"})
    await api.phase("a", "Running")
    await api.phase("b", "Failed")

    async def names(**how: str) -> set[str]:
        return {
            one.metadata.name for one in (await api("list_namespaced_pod", "default", **how)).items
        }

    assert await names() == {"a", "b"}
    assert await names(label_selector="run=1,kind=x") == {"a"}
    assert await names(label_selector="run in (2, 3)") == {"b"}
    assert await names(label_selector="run notin (2)") == {"a"}
    assert await names(label_selector="kind") == {"a"}
    assert await names(label_selector="!kind") == {"b"}
    assert await names(label_selector="run!=1") == {"b"}
    assert await names(field_selector="status.phase=Running") == {"a"}
    assert await names(field_selector="metadata.name!=a") == {"b"}
    error = await refused(api("list_namespaced_pod", "default", label_selector="run = = 1"))
    assert error.status == 400


class Watching:
    """A watch of pods in a thread, by the official client."""

    def __init__(self, cluster: FakeCluster, **how: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self.seen: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        self._arguments = (cluster.kubeconfig(), how)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def next(self) -> tuple[str, Any] | None:
        async with asyncio.timeout(PATIENCE):
            return await self.seen.get()

    def _run(self) -> None:
        settings, how = self._arguments
        api = config.new_client_from_config_dict(settings)
        told: Callable[[Any], Any] = self.seen.put_nowait
        try:
            core = client.CoreV1Api(api)
            for event in watch.Watch().stream(core.list_namespaced_pod, "default", **how):
                name = event["raw_object"]["metadata"].get("name")
                self._loop.call_soon_threadsafe(told, (event["type"], name))
        except client.ApiException as error:
            self._loop.call_soon_threadsafe(told, ("ERROR", error.status))
        finally:
            close(api)
            self._loop.call_soon_threadsafe(told, None)

    async def end(self) -> None:
        await asyncio.to_thread(self._thread.join, PATIENCE)


async def test_a_watch_tells_what_it_selects_from_a_version_on(
    cluster: FakeCluster, api: Client
) -> None:
    await api.create("before")
    await api.phase("before", "Running")
    version = (await api("list_namespaced_pod", "default")).metadata.resource_version
    await api.create("a", labels={"run": "1"})
    await api.create("b")
    how = {"resource_version": version, "label_selector": "run=1", "timeout_seconds": 1}
    watching = Watching(cluster, **how)
    seen = []
    while (event := await watching.next()) is not None:
        seen.append(event)
    assert seen[0] == ("ADDED", "a")
    assert set(seen[1:]) == {("MODIFIED", "a")}
    await watching.end()


async def test_a_watch_by_phase_loses_what_leaves_the_phase(
    cluster: FakeCluster, api: Client
) -> None:
    await api.create("a")
    await api.phase("a", "Running")
    selected = "status.phase=Running"
    watching = Watching(cluster, field_selector=selected, resource_version=0, timeout_seconds=2)
    assert await watching.next() == ("ADDED", "a")
    cluster.kill("a")
    assert await watching.next() == ("DELETED", "a")
    await watching.end()


async def test_a_version_that_is_too_old_is_expired(cluster: FakeCluster, api: Client) -> None:
    version = (await api("list_namespaced_pod", "default")).metadata.resource_version
    await api.create("a")
    cluster.store.compact()
    watching = Watching(cluster, resource_version=version, timeout_seconds=2)
    assert await watching.next() == ("ERROR", 410)
    await watching.end()


async def test_bookmarks_come_where_nothing_does(cluster: FakeCluster) -> None:
    cluster.api.bookmark_seconds = 0.01
    how = {"allowWatchBookmarks": "true", "watch": "1"}
    url = f"{cluster.address}/api/v1/namespaces/default/pods"
    async with ClientSession() as session, session.get(url, params=how) as answer:
        line = await asyncio.wait_for(answer.content.readline(), PATIENCE)
    assert b'"BOOKMARK"' in line
    assert f'"resourceVersion": "{cluster.store.version}"'.encode() in line


async def test_a_dropped_watch_ends_and_an_absent_api_comes_back(
    cluster: FakeCluster, api: Client
) -> None:
    await api.create("a")
    await api.phase("a", "Running")
    url = f"{cluster.address}/api/v1/namespaces/default/pods"
    async with ClientSession() as session, session.get(url, params={"watch": "1"}) as answer:
        assert b"ADDED" in await asyncio.wait_for(answer.content.readline(), PATIENCE)
        cluster.api.drop_watches()
        assert await asyncio.wait_for(answer.content.read(), PATIENCE) == b""
    async with cluster.away():
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", int(cluster.address.rpartition(":")[2]))
    assert (await api("read_namespaced_pod", "a", "default")).status.phase == "Running"


async def test_refusals_and_quota(cluster: FakeCluster, api: Client) -> None:
    busy = Refusal(429, "TooManyRequests", "later", retry_after=7)
    cluster.api.refusals["create pods"] = [Refusal(500, "InternalError", "etcd"), busy]
    assert (await refused(api.create("a"))).status == 500
    error = await refused(api.create("a"))
    assert (error.status, error.headers["Retry-After"]) == (429, "7")
    cluster.api.quota["default"] = 1
    await api.create("a")
    error = await refused(api.create("b"))
    assert error.status == 403
    assert "exceeded quota" in error.body
    assert cluster.api.requests["create pods"] == 4


async def test_a_token_is_asked_for(cluster: FakeCluster, api: Client) -> None:
    cluster.api.token = "secret"
    assert (await refused(api("list_namespaced_pod", "default"))).status == 401
    known = Client(cluster)
    assert (await known("list_namespaced_pod", "default")).items == []
    known.close()


async def test_what_has_no_room_waits_for_it_and_says_so(cluster: FakeCluster, api: Client) -> None:
    cluster.nodes["node-1"] = 1.0
    half = {"resources": {"requests": {"cpu": "600m"}}}
    await api.create("a", **half)
    await api.phase("a", "Running")
    await api.create("b", **half)
    found = await api.phase("b", "Pending")
    (condition,) = found.status.conditions
    assert (condition.reason, "Insufficient cpu" in condition.message) == ("Unschedulable", True)
    events = await api("list_namespaced_event", "default", field_selector="involvedObject.name=b")
    assert [event.reason for event in events.items] == ["FailedScheduling"]
    await api("delete_namespaced_pod", "a", "default", grace_period_seconds=1)
    await api.phase("b", "Running")


async def test_an_image_that_is_missing_is_explained(cluster: FakeCluster, api: Client) -> None:
    cluster.missing["image:1"] = "manifest unknown"
    await api.create("a")

    async def is_explained() -> bool:
        return bool((await api.phase("a", "Pending")).status.container_statuses)

    await until(is_explained)
    waiting = (await api.phase("a", "Pending")).status.container_statuses[0].state.waiting
    assert (waiting.reason, waiting.message) == ("ImagePullBackOff", "manifest unknown")


async def test_what_ends_pods(cluster: FakeCluster, api: Client) -> None:
    for name in ("oom", "evicted", "lost"):
        await api.create(name)
        await api.phase(name, "Running")
    cluster.oom_kill("oom")
    state = (await api.phase("oom", "Failed")).status.container_statuses[0].state
    assert (state.terminated.reason, state.terminated.exit_code) == ("OOMKilled", 137)
    cluster.evict("evicted", "The node was low on resource: memory.")
    status = (await api.phase("evicted", "Failed")).status
    assert (status.reason, "memory" in status.message) == ("Evicted", True)
    version = (await api("list_namespaced_pod", "default")).metadata.resource_version
    cluster.lose_node("node-1")
    chosen = "metadata.name=lost"
    watching = Watching(cluster, resource_version=version, field_selector=chosen, timeout_seconds=2)
    assert [await watching.next() for _ in range(2)] == [("MODIFIED", "lost"), ("DELETED", "lost")]
    await watching.end()


async def test_what_an_object_owns_goes_with_it(api: Client) -> None:
    owner = await api("create_namespaced_config_map", "default", {"metadata": {"name": "server"}})
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "server",
        "uid": owner.metadata.uid,
    }
    body = pod("a", *IDLE)
    body["metadata"]["ownerReferences"] = [reference]
    await api("create_namespaced_pod", "default", body)
    await api.phase("a", "Running")
    await api("delete_namespaced_config_map", "server", "default")
    await until(api.is_empty)


async def test_exec_by_the_official_client(cluster: FakeCluster, api: Client) -> None:
    await api.create("a")
    await api.phase("a", "Running")

    def run() -> tuple[str, str, int]:
        # It replaces a method of the client that it is given, so it has its own.
        own = config.new_client_from_config_dict(cluster.kubeconfig())
        command = ["sh", "-c", "echo out; echo err >&2; exit 3"]
        call = client.CoreV1Api(own).connect_get_namespaced_pod_exec
        how = {"command": command, "stderr": True, "stdout": True, "stdin": False, "tty": False}
        socket = stream.stream(call, "a", "default", _preload_content=False, **how)
        socket.run_forever(timeout=PATIENCE)
        found = (socket.read_stdout(), socket.read_stderr(), socket.returncode)
        socket.sock.shutdown()  # its own close leaves one open that the other side has closed
        close(own)
        return found

    assert await asyncio.to_thread(run) == ("out\n", "err\n", 3)


async def test_input_ends_over_the_fifth_protocol(cluster: FakeCluster, api: Client) -> None:
    await api.create("a")
    await api.phase("a", "Running")
    url = f"{cluster.address}/api/v1/namespaces/default/pods/a/exec"
    how = {"command": "cat", "stdin": "true", "stdout": "true"}
    protocols = ("v5.channel.k8s.io",)
    parts = []
    async with (
        asyncio.timeout(PATIENCE),
        ClientSession() as session,
        session.ws_connect(url, params=how, protocols=protocols) as socket,
    ):
        await socket.send_bytes(b"\x00said")
        await socket.send_bytes(b"\xff\x00")
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            parts.append(message.data)
    assert parts[0] == b"\x01said"
    assert parts[-1][:1] == b"\x03"
    assert b'"Success"' in parts[-1]
