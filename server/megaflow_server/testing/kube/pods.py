"""Scheduler and kubelet: a pod of one container is a local process, and what was started beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from megaflow_server.testing.kube.store import Key, Object, Refusal, Store, now

__all__ = ["Container", "Pods", "begin", "check"]

_CHUNK = 1 << 16
# What a fake container hands on of its own environment: programs are found, and nothing else.
_INHERITED = ("PATH",)


class Container:
    """A pod's one container: its process, its output so far, and programs beside it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.programs: set[asyncio.subprocess.Process] = set()
        self.output = bytearray()
        self.over = False
        self._news = asyncio.Event()
        self.deadline: float | None = None
        self.hurry = asyncio.Event()
        self.reason: str | None = None

    async def pump(self) -> None:
        """Keep its output until it ends."""
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(_CHUNK):
            self.output += data
            self._tell()
        self.over = True
        self._tell()

    async def news(self) -> None:
        await self._news.wait()

    def signal(self, number: int) -> None:
        """To all of its process group; SIGKILL goes to the programs beside it, too."""
        if number == signal.SIGKILL:
            processes = [self.process, *self.programs]
        else:
            processes = [self.process] if self.process.returncode is None else []
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Pods:
    """Runs what is created as a pod; see `FakeCluster` for what can be done to it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.nodes: dict[str, float] = {"node-1": 1e6}
        self.missing: dict[str, str] = {}
        self.containers: dict[Key, Container] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for container in self.containers.values():
            container.signal(signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for container in self.containers.values():
            await container.process.wait()

    def place(self, key: Key) -> None:
        """Give a new pod a node and start it; where there is no room, say so."""
        pod = self._store.get(key)
        room = self._room()
        asked = _cpu(pod)
        node = next((name for name, left in room.items() if left >= asked), None)
        if node is None:
            message = f"0/{len(room)} nodes are available: {len(room)} Insufficient cpu."
            about = {"reason": "Unschedulable", "message": message}
            condition = {"type": "PodScheduled", "status": "False", **about}
            if pod["status"].get("conditions") != [condition]:
                self._store.update(key, {"status": {"phase": "Pending", "conditions": [condition]}})
                self.tell(key, "FailedScheduling", message, "Warning")
            return
        condition = {"type": "PodScheduled", "status": "True"}
        status = {"phase": "Pending", "conditions": [condition]}
        self._store.update(key, {"spec": pod["spec"] | {"nodeName": node}, "status": status})
        self._soon(self._run(key))

    def retry(self) -> None:
        """Place the pods that no node has had room for."""
        for pod in self._store.select("pods", ""):
            metadata = pod["metadata"]
            if not pod["spec"].get("nodeName") and "deletionTimestamp" not in metadata:
                self.place(Key("pods", metadata["namespace"], metadata["name"]))

    def tell(self, key: Key, reason: str, message: str, kind: str = "Normal") -> None:
        """An event about a pod."""
        pod = self._store.get(key)
        name = f"{key.name}.{self._store.version:x}"
        about = {"kind": "Pod", "name": key.name, "namespace": key.namespace}
        body = {
            "kind": "Event",
            "apiVersion": "v1",
            "involvedObject": about | {"uid": pod["metadata"]["uid"]},
            "reason": reason,
            "message": message,
            "type": kind,
            "lastTimestamp": now(),
        }
        self._store.create(Key("events", key.namespace, name), body)

    def delete(self, key: Key, grace: int) -> Object:
        """End a pod as the API does: at once and unseen with 0 seconds, else with SIGTERM first."""
        pod = self._store.get(key)
        container = self.containers.get(key)
        if grace == 0 or container is None:
            if container is not None:
                container.signal(signal.SIGKILL)
            return self._gone(key)
        deadline = asyncio.get_running_loop().time() + grace
        container.deadline = min(deadline, container.deadline or deadline)
        container.hurry.set()
        if "deletionTimestamp" not in pod["metadata"]:
            marks = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
            self._store.update(key, {"metadata": marks})
            self._soon(self._end(key, container))
        return pod

    def ended(self, key: Key, status: Mapping[str, Any]) -> None:
        """Say how a pod ended, which a pod can only once."""
        with contextlib.suppress(Refusal):
            if self._store.get(key)["status"]["phase"] in ("Pending", "Running"):
                self._store.update(key, {"status": dict(status)})
        self.retry()

    async def _run(self, key: Key) -> None:
        pod = self._store.get(key)
        spec = pod["spec"]["containers"][0]
        refusal = self.missing.get(spec["image"])
        if refusal is not None:
            self.tell(
                key, "Failed", f'Failed to pull image "{spec["image"]}": {refusal}', "Warning"
            )
            waiting = {"reason": "ImagePullBackOff", "message": refusal}
            self._store.update(key, {"status": _status(pod, "Pending", {"waiting": waiting})})
            return
        try:
            process = await begin(_argv(spec), spec, stdin=bool(spec.get("stdin")), merged=True)
        except OSError as error:
            ended = {"exitCode": 128, "reason": "StartError", "message": str(error)}
            self.ended(key, _status(pod, "Failed", {"terminated": ended}))
            return
        container = Container(process)
        if not any(found is pod for found in self._store.select("pods", "")):  # deleted meanwhile
            container.signal(signal.SIGKILL)
            await process.wait()
            return
        self.containers[key] = container
        status = _status(pod, "Running", {"running": {"startedAt": now()}})
        self._store.update(key, {"status": status | {"podIP": "127.0.0.1"}})
        pumping = asyncio.ensure_future(container.pump())
        code = await process.wait()
        container.signal(signal.SIGKILL)
        await pumping
        code = 128 - code if code < 0 else code
        reason = container.reason or ("Completed" if code == 0 else "Error")
        phase = "Succeeded" if code == 0 else "Failed"
        ended = {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}
        if self.containers.get(key) is container:
            self.ended(key, _status(pod, phase, {"terminated": ended}))

    async def _end(self, key: Key, container: Container) -> None:
        """SIGTERM, and SIGKILL at the deadline, which a further deletion can bring forward."""
        container.signal(signal.SIGTERM)
        ending = asyncio.ensure_future(_over(container))
        while not ending.done() and container.deadline is not None:
            left = container.deadline - asyncio.get_running_loop().time()
            if left <= 0:
                container.signal(signal.SIGKILL)
                await ending
                break
            container.hurry.clear()
            hurried = asyncio.ensure_future(container.hurry.wait())
            await asyncio.wait([ending, hurried], timeout=left, return_when="FIRST_COMPLETED")
            hurried.cancel()
        await asyncio.sleep(0)  # its end is told before it is gone
        if self.containers.get(key) is container:
            while self._store.get(key)["status"]["phase"] == "Running":  # noqa: ASYNC110 - a turn or two
                await asyncio.sleep(0)
            self._gone(key)

    def _gone(self, key: Key) -> Object:
        self.containers.pop(key, None)
        removed = self._store.remove(key)
        self.retry()
        return removed

    def _room(self) -> dict[str, float]:
        room = dict(self.nodes)
        for pod in self._store.select("pods", ""):
            node = pod["spec"].get("nodeName")
            if node in room and pod["status"]["phase"] in ("Pending", "Running"):
                room[node] -= _cpu(pod)
        return room

    def _soon(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def check(pod: Object) -> None:
    """Refuse what this cluster cannot run.

    Raises:
        Refusal: 422.
    """
    spec = pod.get("spec") or {}
    containers = spec.get("containers") or []
    if len(containers) != 1 or not containers[0].get("image"):
        raise Refusal(
            422, "Invalid", "spec.containers: this cluster runs pods of one container with an image"
        )
    if spec.get("restartPolicy", "Always") != "Never":
        raise Refusal(422, "Invalid", "spec.restartPolicy: this cluster runs pods of Never")
    if not _argv(containers[0]):
        raise Refusal(
            422,
            "Invalid",
            "spec.containers[0].command: images of this cluster have none of their own",
        )


async def begin(
    argv: Sequence[str], spec: Mapping[str, Any], *, stdin: bool, merged: bool = False
) -> asyncio.subprocess.Process:
    """Start a program as a container's specification has it; OSError where it cannot be."""
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environ |= {one["name"]: one.get("value", "") for one in spec.get("env") or ()}
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=pipe if stdin else nothing,
        stdout=pipe,
        stderr=asyncio.subprocess.STDOUT if merged else pipe,
        env=environ,
        cwd=spec.get("workingDir"),
        start_new_session=True,
    )


async def _over(container: Container) -> None:
    await container.process.wait()


def _argv(spec: Mapping[str, Any]) -> list[str]:
    return [*(spec.get("command") or ()), *(spec.get("args") or ())]


def _status(pod: Object, phase: str, state: Mapping[str, Any]) -> Object:
    spec = pod["spec"]["containers"][0]
    container = {"name": spec["name"], "image": spec["image"], "imageID": "", "restartCount": 0}
    about = {"ready": "running" in state, "state": dict(state)}
    return {"phase": phase, "containerStatuses": [container | about]}


def _cpu(pod: Object) -> float:
    asked = (pod["spec"]["containers"][0].get("resources") or {}).get("requests") or {}
    quantity = str(asked.get("cpu", "0"))
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
