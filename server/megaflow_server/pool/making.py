"""What a template comes to on its backend: refused before anything starts, or made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow_server.backends.base import IDLE, Backend, Instance, InstanceSpec
from megaflow_server.pool.describe import describe
from megaflow_server.pool.folders import hand_over
from megaflow_server.pool.host import Files, Host, InstanceHost
from megaflow_server.pool.rooms import RoomHost
from megaflow_server.sandbox.phases import check_phases
from megaflow_server.sandbox.process import ProcessSandbox, Room
from megaflow_server.templates import PHASES, Mode, Template

__all__ = ["Maker"]

# What `Host.files` and `Host.programs` take of a backend.
_COMPARING = frozenset({"copy", "inspect"})
# The backend whose sandboxes are made of processes.
_ROOMS = "process"


class Maker:
    """Makes hosts of one template, its image named.

    Args:
        run: the label by which everything of this server is found.
        folder: for logs, and for what is made of folders.

    Raises:
        InvalidArgument: the template lacks what its backend needs.
        FailedPrecondition: it asks for what its backend cannot give.
    """

    def __init__(self, backend: Backend, template: Template, run: str, folder: Path) -> None:
        self.backend = backend
        self.template = template
        self._labels = {"run": run, "template": template.name}
        self._folder = folder
        self._original: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._phases = check_phases(template, backend)
        self.mode = _mode(template, backend)
        if backend.name == _ROOMS:
            _check_room(template)
        else:
            _check_instance(template, backend)

    async def prepare(self) -> None:
        """Have the image at hand."""
        if self.template.image is not None:
            await self.backend.prepare(self.template.image)

    async def make(self, name: str) -> Host:
        """A new instance of this name."""
        template = self.template
        if self.backend.name == _ROOMS:
            room = await ProcessSandbox.start(
                self.backend, name, self._folder / name, self._room(), self._labels
            )
            (instance,) = [one for one in await self.backend.list(self._labels) if one.id == name]
            return RoomHost(self.backend, instance, room, self._phases)
        spec = InstanceSpec(
            name,
            IDLE,
            self._folder / f"{name}.log",
            environ=dict(template.environ),
            directory=None if template.directory is None else Path(template.directory),
            labels=self._labels,
            image=template.image,
            profile=template.profile,
            limits=template.limits,
            network=self._phases.reach("setup"),
        )
        instance = await self.backend.create(spec)
        try:
            await self._hand_over(instance)
        except BaseException:
            await asyncio.shield(self.backend.destroy(name, grace=0))
            raise
        return InstanceHost(self.backend, spec, instance, self._phases)

    async def _hand_over(self, instance: Instance) -> None:
        """Where each phase has its own user, it is the task's to say who may write where."""
        template = self.template
        users = {template.user.of(phase) for phase in PHASES}
        if template.folders and len(users) == 1 and "copy" in self.backend.capabilities():
            await hand_over(instance, template.folders, users.pop())

    async def original(self, paths: Sequence[str], name: str) -> Files:
        """What is at these paths of an instance that nobody has used, called `name` while it is there."""
        if self.backend.name == _ROOMS:
            return {}  # whose files are all told of, from the beginning
        async with self._turn:
            missing = [path for path in paths if path not in self._original]
            if missing:
                await self._look_up(missing, name)
            return {path: self._original[path] for path in paths}

    async def _look_up(self, paths: Sequence[str], name: str) -> None:
        host = await self.make(name)
        assert isinstance(host, InstanceHost)
        try:
            for path in paths:
                self._original[path] = await describe(host.instance, path)
        finally:
            await host.destroy()

    def _room(self) -> Room:
        template = self.template
        limits = template.limits
        usual = Room()
        return Room(
            folders=(template.directory or usual.folders[0],),
            network=self._phases.reach("setup"),
            environ=dict(template.environ),
            memory=limits.memory,
            processes=limits.pids or usual.processes,
            file=limits.disk or usual.file,
        )


def _mode(template: Template, backend: Backend) -> Mode:
    """How instances are used; what cannot be compared is not used again."""
    if backend.name == _ROOMS or backend.capabilities() >= _COMPARING:
        return template.mode
    if template.mode == "persistent":
        raise FailedPrecondition(
            f'template {template.name}: mode="persistent" takes a backend whose instances can be compared with '
            f"fresh ones, which those of {backend.name} cannot; choose ephemeral, or docker"
        )
    return "ephemeral"


def _check_room(template: Template) -> None:
    asked = {
        "image": template.image,
        "profile": template.profile,
        "limits.cpu": template.limits.cpu,
        "user": next(filter(None, map(template.user.of, PHASES)), None),
    }
    for name, value in asked.items():
        if value is not None:
            raise FailedPrecondition(
                f"template {template.name}: {name}={value!r}: a sandbox made of processes has no {name}; leave "
                "it out, or choose docker"
            )


def _check_instance(template: Template, backend: Backend) -> None:
    if "streams" not in backend.capabilities():
        raise FailedPrecondition(
            f"template {template.name}: backend={backend.name!r} cannot run commands in what it starts"
        )
    if template.image is None and "images" in backend.capabilities():
        raise InvalidArgument(
            f"template {template.name}: image: backend={backend.name!r} needs one; name it in the template, or "
            "have each task bring its own"
        )
