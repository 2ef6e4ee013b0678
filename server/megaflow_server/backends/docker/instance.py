"""A container, as an instance."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import IO, Any
from urllib.parse import quote

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from megaflow_server.backends.base import (
    Change,
    Exit,
    Image,
    InstanceState,
    Network,
    Stats,
    TerminalKind,
)
from megaflow_server.backends.docker import figures, killing, names, networks
from megaflow_server.backends.docker.attached import Attached
from megaflow_server.backends.docker.calls import Calls
from megaflow_server.backends.docker.failures import EngineRefusal, refusal
from megaflow_server.backends.docker.isolation import is_root
from megaflow_server.backends.docker.layers import Layers
from megaflow_server.backends.docker.own_files import OwnFiles, addresses
from megaflow_server.backends.docker.stream import DockerStream, Undivided
from megaflow_server.backends.docker.terminal import DockerTerminal, hanging_up, new_mark, sized
from megaflow_server.backends.docker.wire import EngineSocket
from megaflow_server.backends.instance import unseen
from megaflow_server.egress import listen

__all__ = ["DockerInstance"]

_log = logging.getLogger(__name__)

# How often all that runs is ended until nothing is left, and how long one time may take.
_ENDINGS = 5
_ENDING_PAUSE = 0.02
_ENDING_SECONDS = 10.0
# How long the rest of the output may take to reach the log after the end.
_LOG_SECONDS = 1.0
# A program that was started at all is seen to run, or to have run, within this many looks.
_LOOKS = 200
_LOOK_SECONDS = 0.005
_CHUNK = 1 << 20
_NO_LAYERS = (
    "what it wrote cannot be compared, since an engine's own list leaves some of it out: it takes a server that is "
    "root, beside an engine that stores by overlay2"
)
# As the engine numbers them.
_CHANGES: Sequence[Change] = ("changed", "added", "deleted")


class DockerInstance:
    """A container; made by the backend alone.

    Attributes:
        container: the engine's own id of it.
        announced: whether its start was published: no end is, before.
        reason: why the backend ends it, where it does so by itself.
        attached: its log, where this process made it.
        disk: what it has written, as far as that was last looked at; `disk_limit` what it may, with what the
            snapshots that it came of hold.
        volumes: its folders that are volumes, and `volume_names` the engine's names of these.
    """

    def __init__(
        self,
        calls: Calls,
        socket: EngineSocket,
        scope: str,
        carried: names.Carried,
        inspected: Mapping[str, Any],
    ) -> None:
        self._calls = calls
        self._socket = socket
        self._scope = scope
        self.container: str = inspected["Id"]
        self._id = carried.id
        self._labels = carried.labels
        self.profile = carried.profile
        self.disk_limit = carried.disk
        self._base = carried.base
        self.disk_before = carried.written
        mounted = [one for one in inspected.get("Mounts") or () if one["Type"] == "volume"]
        self.volumes: Sequence[str] = sorted(one["Destination"] for one in mounted)
        self.volume_names: Sequence[str] = [one["Name"] for one in mounted]
        self._layers = Layers.of(inspected)
        self._own_files = OwnFiles(inspected)
        self._user: str = inspected["Config"].get("User", "")
        self.image: str = inspected["Image"]
        self._users = {self._user}  # who may have something running in it
        self._pid: int | None = inspected["State"].get("Pid") or None
        self.exit: Exit | None = None
        self.announced = False
        self.reason: str | None = None
        self.attached: Attached | None = None
        self.disk: int | None = None
        self._exited = asyncio.Event()

    @property
    def id(self) -> str:
        return self._id

    @property
    def labels(self) -> Mapping[str, str]:
        return self._labels

    @property
    def pid(self) -> int | None:
        return self._pid

    @property
    def blind(self) -> str | None:
        return unseen(self.volumes) or (None if self._layers is not None else _NO_LAYERS)

    @property
    def state(self) -> InstanceState:
        return InstanceState.RUNNING if self.exit is None else InstanceState.EXITED

    async def wait(self) -> Exit:
        await self._exited.wait()
        assert self.exit is not None
        return self.exit

    def started(self, inspected: Mapping[str, Any]) -> None:
        """Take down what is known of it from its start on."""
        self._pid = inspected["State"].get("Pid") or None
        self._own_files = OwnFiles(inspected)

    async def ended(self, how: Exit) -> bool:
        """Take down how it ended, once its log is whole; whether that is news."""
        if self.attached is not None:
            await self.attached.finish(_LOG_SECONDS)
        if self.exit is not None:
            return False
        self.exit = how
        self._exited.set()
        return True

    async def open_stream(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> DockerStream:
        _, stream = await self._run(argv, user, environ, directory)
        return stream

    async def open_terminal(
        self,
        argv: Sequence[str],
        kind: TerminalKind,
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> DockerTerminal:
        mark = new_mark()
        environ = {**(environ or {}), "TERM": kind.name, **mark}
        program, stream = await self._run(
            sized(argv, kind), user, environ, directory, terminal=True
        )

        async def ended() -> Exit | None:
            return figures.program_exit(await self._inspect_program(program))

        async def resize(rows: int, columns: int) -> None:
            await self._calls("exec_resize", program, height=rows, width=columns)

        async def hang_up() -> None:
            _, ending = await self._run(hanging_up(mark), user, {}, None)
            try:
                await ending.wait()
            finally:
                await ending.close()

        terminal = DockerTerminal(stream, ended, resize, hang_up)
        await terminal.resize(kind.rows, kind.columns)
        return terminal

    async def end_programs(self) -> bool:
        for _ in range(_ENDINGS):
            # Root may kill whomever; a strict one has none that may, and nobody but these.
            users = sorted(self._users) if self.profile == "strict" else ["0"]
            for user in users:
                await self._kill_as(user)
            try:
                table = await self._calls("top", self.container, ps_args=killing.LEFT)
            except EngineRefusal as error:
                raise self._refused("programs", error) from error
            if not killing.left(table):
                return True
            await asyncio.sleep(_ENDING_PAUSE)
        return False

    async def _kill_as(self, user: str) -> None:
        """What is to be killed may hinder it: how far it came is seen from outside."""
        try:
            async with asyncio.timeout(_ENDING_SECONDS):
                _, killer = await self._run(killing.KILL, user, {}, None)
                try:
                    await killer.wait()
                finally:
                    await killer.close()
        except (TimeoutError, InvalidArgument, Unavailable, ResourceExhausted) as error:
            _log.info("instance %s: what ends its programs was hindered: %s", self.id, error)

    async def _run(
        self,
        argv: Sequence[str],
        user: str | None,
        environ: Mapping[str, str] | None,
        directory: str | None,
        *,
        terminal: bool = False,
    ) -> tuple[str, DockerStream]:
        """The engine's id of a program that runs, and its stream."""
        self._check_user(user)
        self._users.add(user or self._user)
        name = f"{argv[0]} in instance {self.id}"
        try:
            made = await self._calls(
                "exec_create",
                self.container,
                list(argv),
                stdin=True,
                tty=terminal,
                user=user or "",
                environment=dict(environ or {}),
                workdir=directory,
            )
            path = f"/exec/{quote(made['Id'])}/start"
            connection = await self._socket.upgrade(path, {"Detach": False, "Tty": terminal})
        except EngineRefusal as error:
            raise self._refused(name, error) from error

        async def ended() -> Exit | None:
            return figures.program_exit(await self._inspect_program(made["Id"]))

        stream = DockerStream(connection, ended, name, Undivided() if terminal else None)
        try:
            await self._begun(made["Id"], stream, name)
        except BaseException:
            await stream.close()
            raise
        return made["Id"], stream

    async def put(self, directory: str, tar: IO[bytes]) -> None:
        try:
            await self._calls.run(
                lambda api: api.put_archive(self.container, directory, tar), slow=True
            )
        except EngineRefusal as error:
            raise refusal(f"instance {self.id}: {directory!r}", error) from error

    async def get(self, path: str, tar: IO[bytes], *, most: int) -> None:
        def fetch(api: Any) -> None:
            parts, _ = api.get_archive(self.container, path, chunk_size=_CHUNK)
            with contextlib.closing(parts):
                written = 0
                for part in parts:
                    written += len(part)
                    if written > most:
                        raise ResourceExhausted(
                            f"the tar of {path!r} of instance {self.id} passes {most} bytes"
                        )
                    tar.write(part)

        try:
            await self._calls.run(fetch, slow=True)
        except EngineRefusal as error:
            raise refusal(f"instance {self.id}: {path!r}", error) from error

    async def commit(self, labels: Mapping[str, str]) -> Image:
        config = {"Labels": names.image_labels(self._scope, labels, self._labels, self._base)}
        try:
            made = await self._calls.run(
                lambda api: api.commit(self.container, message=names.COMMENT, conf=config),
                slow=True,
            )
            size = (await self._calls("inspect_image", made["Id"])).get("Size") or 0
        except EngineRefusal as error:
            raise refusal(f"instance {self.id} cannot be committed", error) from error
        return Image(made["Id"], dict(labels), max(0, size - self._base - self.disk_before))

    async def changes(self) -> Mapping[str, Change]:
        if self._layers is not None:
            try:
                return await asyncio.to_thread(self._layers.changes)
            except OSError as error:
                raise Unavailable(
                    f"instance {self.id}: what it wrote cannot be looked at: {error}"
                ) from error
        try:
            found = await self._calls.run(lambda api: api.diff(self.container), slow=True)
        except EngineRefusal as error:
            raise self._refused("changes", error) from error
        return {one["Path"]: _CHANGES[one["Kind"]] for one in found or ()}

    async def own_files(self) -> Mapping[str, str]:
        if self._layers is None:
            return {}
        try:
            said = await self._calls("inspect_container", self.container)
            return self._own_files.describe(addresses(said))
        except EngineRefusal as error:
            raise self._refused("own files", error) from error
        except OSError as error:
            raise Unavailable(
                f"instance {self.id}: what its engine writes cannot be looked at: {error}"
            ) from error

    async def attributes(self, path: str) -> str:
        if self._layers is None:
            return ""
        try:
            return await asyncio.to_thread(self._layers.attributes, path)
        except OSError as error:
            raise Unavailable(
                f"instance {self.id}: {path!r} cannot be looked at: {error}"
            ) from error

    async def programs(self) -> Sequence[str]:
        try:
            table = await self._calls("top", self.container, ps_args="-eo pid,args")
        except EngineRefusal as error:
            raise self._refused("programs", error) from error
        return [row[-1] for row in table["Processes"]]

    async def stats(self) -> Stats:
        """What it uses; the engine counts once a second, and an older one has us wait for that."""
        try:
            said = await self._calls("stats", self.container, stream=False, one_shot=True)
        except EngineRefusal as error:
            raise self._refused("stats", error) from error
        if self.exit is not None or not said.get("pids_stats", {}).get("current"):
            raise FailedPrecondition(f"instance {self.id} has ended: {self.exit or 'just now'}")
        return figures.stats(said, self.disk)

    async def reach(self, network: Network) -> None:
        if self.profile == "strict" and network != "none":
            raise FailedPrecondition(
                f"instance {self.id}: network={network!r} conflicts with profile='strict': a strict one has none"
            )
        if self.exit is not None:
            raise FailedPrecondition(f"instance {self.id} has ended: {self.exit}")
        try:
            before = self._own_files.resolver()
            await networks.switch(self._calls, self._scope, self.container, network)
            self._own_files.switched(before)
        except EngineRefusal as error:
            raise self._refused(f"instance {self.id}: network={network!r}", error) from error
        except OSError as error:
            raise Unavailable(
                f"instance {self.id}: what its engine writes cannot be looked at: {error}"
            ) from error

    async def listen(self, port: int) -> socket.socket:
        if self.exit is not None or self._pid is None:
            raise FailedPrecondition(f"instance {self.id} has ended: {self.exit}")
        return await asyncio.to_thread(listen, self._pid, port, of=self.container)

    def _check_user(self, user: str | None) -> None:
        """A strict instance has one user, whom its start has shown not to be root, or any other number."""
        if self.profile != "strict" or user in (None, self._user):
            return
        assert user is not None
        parts = user.split(":")
        if is_root(user) or not all(part.isdecimal() and int(part) for part in parts):
            raise FailedPrecondition(
                f"instance {self.id}: user={user!r} conflicts with profile='strict': it takes a number "
                f"other than 0, or the instance's own user, {self._user!r}"
            )

    async def _begun(self, program: str, stream: DockerStream, name: str) -> None:
        """Return once a program runs, or has run.

        The engine says that it could not be started where its output would be.
        """
        for _ in range(_LOOKS):
            found = await self._inspect_program(program)
            if found is None or found.get("Pid"):
                return
            if not found["Running"] and found["ExitCode"] is not None:
                said = await stream.read() or stream.errors
                message = said.decode(errors="replace").strip() or "it could not be started"
                await stream.close()
                raise InvalidArgument(f"{name}: {message}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _inspect_program(self, program: str) -> Mapping[str, Any] | None:
        """What the engine knows of a program; None where it knows none any more."""
        try:
            found: Mapping[str, Any] = await self._calls("exec_inspect", program)
        except EngineRefusal as error:
            if error.status == 404:
                return None
            raise refusal(f"instance {self.id}", error) from error
        return found

    def _refused(self, what: str, error: EngineRefusal) -> Exception:
        if error.status == 404 and "no such container" in error.message.lower():
            return NotFound(f"instance {self.id} is gone")
        if error.status in (404, 409) and "not running" in error.message.lower():
            return FailedPrecondition(f"instance {self.id} has ended: {self.exit or 'just now'}")
        return refusal(what, error, starting=True)
