"""Making a container of a spec: asked for, compared with what came of it, fed and started."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from megaflow.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from megaflow_server.backends.base import InstanceSpec
from megaflow_server.backends.docker import isolation, names, networks
from megaflow_server.backends.docker.attached import Attached, open_log
from megaflow_server.backends.docker.calls import Calls
from megaflow_server.backends.docker.failures import EngineRefusal, refusal
from megaflow_server.backends.docker.instance import DockerInstance
from megaflow_server.backends.docker.options import DockerOptions
from megaflow_server.backends.docker.programs import described, find_program, search_path
from megaflow_server.backends.docker.pulling import Images
from megaflow_server.backends.docker.wire import EngineSocket
from megaflow_server.quantities import shown

__all__ = ["Creation"]

# How long another server that has made a container may take to start it; seconds.
_START_SECONDS = 5.0
_ATTACH = "stream=1&stdin=1&stdout=1&stderr=1"


class Creation:
    """What it takes to make a container."""

    def __init__(
        self, calls: Calls, socket: EngineSocket, images: Images, options: DockerOptions
    ) -> None:
        self._calls = calls
        self._socket = socket
        self._images = images
        self._scope = options.scope
        self._path = options.socket
        self._profile = options.profile
        # What the engine can enforce; None until it is asked, and once it has begun anew.
        self.engine: isolation.Engine | None = None
        # Programs that were found, by image, search path, directory and name.
        self._programs: set[tuple[str, str, str, str]] = set()
        # Whether the storage can limit a container; not known before the first try.
        self._quota = True

    def handle(self, inspected: Mapping[str, Any]) -> DockerInstance | None:
        """The instance of a container, as the engine describes it; None where it is none of this scope's."""
        carried = names.carried(self._scope, inspected)
        if carried is None:
            return None
        return DockerInstance(self._calls, self._socket, self._scope, carried, inspected)

    async def make(self, spec: InstanceSpec) -> Mapping[str, Any] | None:
        """Make the container of a spec, which does not run yet; None where there is one of that id.

        Raises:
            FailedPrecondition: its image is not at hand, its profile forbids something, or the engine
                did not do everything that was asked of it.
        """
        if spec.image is None:
            raise InvalidArgument(f"instance {spec.id}: image=None: a container needs an image")
        image = await self._images.find(spec.image)
        if image is None:
            raise FailedPrecondition(
                f"instance {spec.id}: image={spec.image!r} is not on this host; prepare it first"
            )
        if self.engine is None:
            self.engine = isolation.Engine.of(await self._calls("info"), self._path)
        spec = replace(spec, profile=spec.profile or self._profile)
        spec = isolation.settle(spec, image["Config"].get("User") or "", self.engine)
        self._check_disk(spec, image)
        try:
            container, wanted = await self._ask(spec, image)
        except EngineRefusal as error:
            if error.status == 409:
                return None
            raise refusal(f"instance {spec.id} cannot be made", error) from error
        inspected: Mapping[str, Any] = await self._calls("inspect_container", container)
        if wrong := isolation.differences(wanted, spec.user or "", inspected):
            await self._calls("remove_container", container, v=True, force=True)
            raise FailedPrecondition(
                f"instance {spec.id}: profile={spec.profile!r} cannot be had, since this Docker Engine made "
                f"something else: {'; '.join(wrong)}"
            )
        try:
            await self._check_program(spec, inspected)
        except BaseException:
            await asyncio.shield(self._calls("remove_container", container, v=True, force=True))
            raise
        return inspected

    def _check_disk(self, spec: InstanceSpec, image: Mapping[str, Any]) -> None:
        _, written = names.sizes(self._scope, image)
        if spec.limits.disk is not None and written >= spec.limits.disk:
            raise ResourceExhausted(
                f"instance {spec.id}: the snapshot that it is made of holds {shown(written)}, and it may write "
                f"{shown(spec.limits.disk)} in all: raise limits.disk of its template"
            )

    async def start(self, spec: InstanceSpec, instance: DockerInstance) -> None:
        """Feed and start a container; a repeated start is none.

        Raises:
            InvalidArgument: its command, directory, user or log cannot be used.
            FailedPrecondition: a strict one would run as root.
        """
        log = open_log(spec)
        path = f"/containers/{instance.container}/attach?{_ATTACH}"
        try:
            connection = await self._socket.upgrade(path)
        except EngineRefusal as error:
            raise refusal(f"instance {spec.id} cannot be attached to", error) from error
        instance.attached = Attached(connection, spec.config, log)
        try:
            await self._calls("start", instance.container)
        except EngineRefusal as error:
            what = f"instance {spec.id}: argv={spec.argv!r} cannot be started"
            raise refusal(what, error, starting=True) from error
        inspected = await self._calls("inspect_container", instance.container)
        instance.started(inspected)
        if instance.profile == "strict" and inspected["State"]["Running"]:
            await self._check_not_root(spec, inspected)

    async def is_strangers(self, instance_id: str) -> bool:
        """Whether a container that is none of this scope has the name that an instance's is to have."""
        try:
            found = await self._calls(
                "inspect_container", names.container(self._scope, instance_id)
            )
        except EngineRefusal as error:
            if error.status == 404:
                return False
            raise
        return names.carried(self._scope, found) is None

    async def is_unstarted(self, instance: DockerInstance) -> bool:
        """Whether nobody starts a container that exists, also not within a while."""
        for _ in range(int(_START_SECONDS / 0.1)):
            inspected = await self._calls("inspect_container", instance.container)
            if inspected["State"]["Status"] != "created":
                return False
            await asyncio.sleep(0.1)
        return True

    async def _ask(
        self, spec: InstanceSpec, image: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        network = "none"
        if spec.network == "public":
            network = await networks.public_network(self._calls, self._scope)
        base, written = names.sizes(self._scope, image)
        wanted = isolation.host_config(spec, network, written=written, quota=self._quota)
        inherited = image["Config"].get("Labels") or {}
        config = {
            "Image": image["Id"],
            "Entrypoint": [spec.argv[0]],
            "Cmd": list(spec.argv[1:]),
            "Env": [f"{name}={value}" for name, value in spec.environ.items()],
            "User": spec.user,
            "WorkingDir": str(spec.directory or ""),
            "Labels": names.container_labels(self._scope, spec, inherited, base, written),
            "Hostname": spec.id[:63],
            "OpenStdin": True,
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": wanted,
        }
        name = names.container(self._scope, spec.id)
        try:
            made = await self._calls("create_container_from_config", config, name)
        except EngineRefusal as error:
            if "StorageOpt" not in wanted or "storage-opt" not in error.message:
                raise
            self._quota = False  # `Sizes` has to look, then
            return await self._ask(spec, image)
        return made["Id"], wanted

    async def _check_program(self, spec: InstanceSpec, inspected: Mapping[str, Any]) -> None:
        config = inspected["Config"]
        path = search_path(config.get("Env") or [])
        name, directory = spec.argv[0], config.get("WorkingDir") or ""
        key = (inspected["Image"], path, directory, name)
        if key in self._programs:
            return

        async def look(place: str) -> Mapping[str, Any] | None:
            where = f"/containers/{inspected['Id']}/archive?path={quote(place)}"
            header = await self._socket.header(where, "x-docker-container-path-stat")
            return None if header is None else described(header)

        try:
            found = await find_program(name, path, directory, look)
        except EngineRefusal as error:
            raise refusal(f"instance {spec.id}: argv[0]={name!r}", error) from error
        if found is None:
            raise InvalidArgument(
                f"instance {spec.id}: argv[0]={name!r} is no program of image={spec.image!r} (PATH={path!r})"
            )
        if not spec.mounts:  # of which another instance may have others
            self._programs.add(key)

    async def _check_not_root(self, spec: InstanceSpec, inspected: Mapping[str, Any]) -> None:
        """A user that is a name may be root by another name: what counts is the number it runs as."""
        if inspected["Config"]["User"].partition(":")[0].isdecimal():
            return
        try:
            table = await self._calls("top", inspected["Id"], ps_args="-eo pid,uid")
        except EngineRefusal as error:
            if error.status == 409:  # it has ended
                return
            raise Unavailable(f"instance {spec.id}: {error.message}") from error
        uids = {row[table["Titles"].index("UID")] for row in table["Processes"]}
        if "0" in uids:
            user = inspected["Config"]["User"]
            raise FailedPrecondition(
                f"instance {spec.id}: user={user!r} is root in image={spec.image!r}, and a strict one never "
                "runs as root; name another user by its number"
            )
