"""The backend: containers of one scope on one Docker Engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from megaflow.errors import FailedPrecondition, Unavailable
from megaflow_server.backends.base import (
    Event,
    Exit,
    Image,
    InstanceSpec,
    Progress,
    check_grace,
    has_labels,
)
from megaflow_server.backends.docker import endings, figures, names, networks
from megaflow_server.backends.docker.calls import Calls
from megaflow_server.backends.docker.creation import Creation
from megaflow_server.backends.docker.failures import EngineRefusal, refusal
from megaflow_server.backends.docker.instance import DockerInstance
from megaflow_server.backends.docker.options import DockerOptions
from megaflow_server.backends.docker.pulling import Images
from megaflow_server.backends.docker.sizes import Sizes
from megaflow_server.backends.docker.watch import Watch
from megaflow_server.backends.docker.wire import EngineSocket
from megaflow_server.backends.events import EventHub, Subscription
from megaflow_server.egress import can_listen
from megaflow_server.quantities import shown

__all__ = ["DockerBackend"]

_log = logging.getLogger(__name__)

# Between two looks for a container whose name is taken and which is not there.
_ADOPT_SECONDS = 0.02


class DockerBackend:
    """Containers; use it from one event loop, and `close` it there.

    Containers survive the backend, and whoever makes another one of the same scope finds them.

    Attributes:
        scope: whose containers these are, see `DockerOptions`.
        about, profile: see `Backend`.

    Raises:
        FailedPrecondition: no engine answers, one that is too old, or one of another host.
    """

    name = "docker"

    def __init__(self, options: DockerOptions | None = None) -> None:
        options = options or DockerOptions()
        self.scope = options.scope
        self.place = f"{options.address} {options.scope}"
        self.profile = options.profile
        self._can_listen = can_listen()
        self._calls = Calls(options)
        self.about = _about(self._calls, options)
        socket = EngineSocket(options.socket, self._calls.version)
        self._images = Images(self._calls, socket, options)
        self._creation = Creation(self._calls, socket, self._images, options)
        self._instances: dict[str, DockerInstance] = {}
        self._containers: dict[str, DockerInstance] = {}
        self._creations: dict[str, asyncio.Task[DockerInstance]] = {}
        self._passed_over: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = EventHub()
        label = f"{names.SCOPE}={self.scope}"
        self._watch = Watch(socket, label, self._on_event, self._catch_up)
        self._sizes = Sizes(
            self._calls, self.scope, self._any_limited, self._volumes, self._on_sizes
        )

    async def close(self) -> None:
        """Let go of the engine, and of what is on it; that goes on. A network that nothing is on goes."""
        await self._watch.close()
        await self._sizes.close()
        tasks = [*self._creations.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for instance in self._instances.values():
            if instance.attached is not None:
                await instance.attached.finish(0)
        await networks.remove_unused(self._calls, self.scope)
        self._calls.close()

    async def create(self, spec: InstanceSpec) -> DockerInstance:
        existing = self._instances.get(spec.id)
        if existing is not None:
            return existing
        task = self._creations.get(spec.id)
        if task is None:
            task = self._creations[spec.id] = asyncio.ensure_future(self._begin(spec))
            task.add_done_callback(lambda done: self._created(spec.id, done))
        # Who waits for it no longer does not stop it half way: it is listed, and can be destroyed.
        return await asyncio.shield(task)

    async def destroy(self, instance_id: str, *, grace: float) -> None:
        check_grace(grace)
        creation = self._creations.get(instance_id)
        if creation is not None:
            await asyncio.wait([creation])
        instance = self._instances.get(instance_id) or await self._find(instance_id)
        if instance is None:
            return
        if grace > 0 and await endings.signal(self._calls, instance, "SIGTERM"):
            await endings.within(grace, instance.wait())
        if await endings.signal(self._calls, instance, "SIGKILL"):
            await endings.within(endings.GONE_SECONDS, instance.wait())
        await endings.remove(self._calls, instance)
        await self._take_down(instance, instance.exit or Exit())
        self._forget(instance)

    async def list(self, labels: Mapping[str, str]) -> Sequence[DockerInstance]:
        await self._watch.ready()
        try:
            found = await self._calls(
                "containers", all=True, filters=names.selector(self.scope, labels)
            )
        except EngineRefusal as error:
            raise refusal("the containers cannot be listed", error) from error
        here = [await self._known(one["Id"]) for one in found if one["State"] != "removing"]
        return [one for one in here if one is not None and has_labels(one, labels)]

    def processes(self, instance_id: str) -> Sequence[int]:
        return []

    def events(self) -> Subscription:
        return self._events.subscribe()

    def capabilities(self) -> frozenset[str]:
        all_ways = {
            *("images", "streams", "terminals", "ending", "copy", "commit", "inspect"),
            *("reach", "stats"),
        }
        return frozenset({*all_ways, "listen"} if self._can_listen else all_ways)

    async def prepare(self, image: str, progress: Progress | None = None) -> None:
        await self._images.prepare(image, progress)

    async def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        try:
            return await self._images.committed(self.scope, labels)
        except EngineRefusal as error:
            raise refusal("the images cannot be listed", error) from error

    async def remove(self, image: str) -> None:
        await self._images.remove(self.scope, image)

    async def _begin(self, spec: InstanceSpec) -> DockerInstance:
        await self._watch.ready()
        try:
            return await self._create(spec)
        except EngineRefusal as error:
            raise refusal(f"instance {spec.id} cannot be created", error) from error

    async def _create(self, spec: InstanceSpec) -> DockerInstance:
        made = await self._creation.make(spec)
        if made is None:
            return await self._adopt(spec)
        instance = self._know(made)
        if instance is None:
            raise FailedPrecondition(
                f"instance {spec.id}: this Docker Engine did not label its container as it was asked to"
            )
        try:
            await self._creation.start(spec, instance)
        except BaseException:
            self._forget(instance)
            await asyncio.shield(endings.remove(self._calls, instance))
            raise
        self._announce(instance)
        return instance

    async def _adopt(self, spec: InstanceSpec) -> DockerInstance:
        """The container of that name that exists, started where whoever made it did not get to that."""
        instance = await self._find(spec.id)
        if instance is None:
            if await self._creation.is_strangers(spec.id):
                raise FailedPrecondition(
                    f"instance {spec.id}: the container {names.container(self.scope, spec.id)} is not this "
                    "server's; remove it, or serve with another scope"
                )
            # It went meanwhile; or another server is at it: its name is taken before it can be seen.
            await asyncio.sleep(_ADOPT_SECONDS)
            return await self._create(spec)
        if await self._creation.is_unstarted(instance):
            await self._creation.start(spec, instance)
        self._announce(instance)
        return instance

    def _created(self, instance_id: str, task: asyncio.Task[DockerInstance]) -> None:
        del self._creations[instance_id]
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more

    def _know(self, inspected: Mapping[str, Any]) -> DockerInstance | None:
        instance = self._creation.handle(inspected)
        if instance is None:
            return None
        self._instances[instance.id] = self._containers[instance.container] = instance
        if instance.disk_limit is not None:
            self._sizes.watch()
        return instance

    async def _known(self, container: str) -> DockerInstance | None:
        """The instance of a container, which another server may have made; None where it is gone."""
        if (known := self._containers.get(container)) is not None:
            return known
        try:
            inspected = await self._calls("inspect_container", container)
        except EngineRefusal as error:
            if error.status == 404:
                return None
            raise refusal(f"container {container}", error) from error
        # Two that look at once see one.
        instance = self._containers.get(inspected["Id"]) or self._know(inspected)
        if instance is None:
            self._pass_over(inspected)
            return None
        instance.announced = True
        if inspected["State"]["Status"] in ("exited", "dead"):
            await self._take_down(instance, figures.container_exit(inspected, None))
        return instance

    def _pass_over(self, inspected: Mapping[str, Any]) -> None:
        """Leave alone what somebody else made, though it carries our labels; said once."""
        if inspected["Id"] not in self._passed_over:
            self._passed_over.add(inspected["Id"])
            _log.warning(
                "container %s of image %s is not this server's, though its name or its labels say the scope "
                "%s: it is left alone",
                inspected["Name"].lstrip("/"),
                inspected["Config"].get("Image"),
                self.scope,
            )

    async def _find(self, instance_id: str) -> DockerInstance | None:
        await self._watch.ready()
        return await self._known(names.container(self.scope, instance_id))

    def _forget(self, instance: DockerInstance) -> None:
        if self._instances.get(instance.id) is instance:
            del self._instances[instance.id]
        self._containers.pop(instance.container, None)

    def _announce(self, instance: DockerInstance) -> None:
        if not instance.announced:
            instance.announced = True
            self._events.publish(Event(instance.id, "running"))
            if instance.exit is not None:
                self._events.publish(Event(instance.id, "exited", instance.exit))

    def _on_event(self, event: Mapping[str, Any]) -> None:
        actor = event["Actor"]
        instance = self._containers.get(actor["ID"])
        if instance is not None and instance.exit is None:
            code = (actor.get("Attributes") or {}).get("exitCode")
            self._soon(self._died(instance, None if code is None else int(code)))

    async def _died(self, instance: DockerInstance, code: int | None) -> None:
        try:
            inspected = await self._calls("inspect_container", instance.container)
            how = figures.container_exit(inspected, instance.reason)
        except (EngineRefusal, Unavailable) as error:
            if code is None and isinstance(error, Unavailable):
                raise
            # It is removed already, or the engine is too busy: what the event said is all there is.
            how = Exit() if code is None else figures.exit_of(code, instance.reason)
        await self._take_down(instance, how)

    async def _take_down(self, instance: DockerInstance, how: Exit) -> None:
        if await instance.ended(how) and instance.announced:
            self._events.publish(Event(instance.id, "exited", how))

    async def _catch_up(self) -> None:
        """Take down which instances ended while nobody told, of an engine that may be another by now."""
        self._creation.engine = None
        found = await self._calls("containers", all=True, filters=names.selector(self.scope, {}))
        states = {one["Id"]: one["State"] for one in found}
        for container, instance in list(self._containers.items()):
            if instance.exit is None and states.get(container) not in (
                "running",
                "created",
                "paused",
            ):
                await self._died(instance, None)

    def _any_limited(self) -> bool:
        return any(one.exit is None and one.disk_limit for one in self._instances.values())

    def _volumes(self) -> Mapping[str, str]:
        limited = [one for one in self._instances.values() if one.exit is None and one.disk_limit]
        return {name: one.container for one in limited for name in one.volume_names}

    async def _on_sizes(self, sizes: Mapping[str, int]) -> None:
        for container, size in sizes.items():
            instance = self._containers.get(container)
            if instance is None or instance.exit is not None:
                continue
            instance.disk = size
            written = size + instance.disk_before
            if instance.disk_limit is not None and written > instance.disk_limit:
                instance.reason = f"it wrote more than its {shown(instance.disk_limit)} of disk"
                _log.warning("instance %s is ended: %s", instance.id, instance.reason)
                await endings.signal(self._calls, instance, "SIGKILL")

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.warning("how an instance ended is not known yet: %s", task.exception())


def _about(calls: Calls, options: DockerOptions) -> str:
    images = f"images from {options.mirror}" if options.mirror else "images from their registries"
    pinned = ", pinned ones alone" if options.require_digest else ""
    return (
        f"docker: Docker Engine {calls.engine} at {options.address}, profile {options.profile} unless a template "
        f"names another, {images}{pinned}"
    )
