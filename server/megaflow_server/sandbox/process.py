"""Sandboxes made of processes of this host, in namespaces of their own. Not a security boundary.

For tasks that need no image: what is shown of the host is read-only, the rest is a folder of the sandbox's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from megaflow.errors import FailedPrecondition, InvalidArgument, SessionLost, Unavailable
from megaflow_server.backends.base import Backend, InstanceSpec, Network, TerminalKind
from megaflow_server.egress import listen, listen_here
from megaflow_server.removal import remove_tree
from megaflow_server.sandbox.link import ARGV
from megaflow_server.sandbox.room_terminal import RoomTerminal
from megaflow_server.sandbox.sandbox import AsyncSandbox
from megaflow_server.sandbox.socket_stream import CHUNK, SocketStream

__all__ = ["ProcessSandbox", "Room"]

_log = logging.getLogger(__name__)

_START_WITHIN = 30.0
_TERMINAL_WITHIN = 10.0
# Longer than the room takes to say that it cannot.
_END_WITHIN = 15.0
_ROOM = Path(__file__).with_name("room.py")
# Each sandbox has a user of its own, whom nothing else on this host runs as.
_FIRST_USER, _USERS = 0x4000_0000, 1 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Room:
    """What a sandbox made of processes is like.

    Attributes:
        folders: that are there and belong to the sandbox, absolute; the first is its working directory.
        read_only: folders of the host that are shown beside its system's.
        network: "none" has a loopback of its own, "public" what the host has.
        environ: beside PATH, HOME, TMPDIR and LANG.
        memory: bytes of address space of each process; None for no limit.
        processes: how many, threads counted; enforced where the server runs as root.
        file: bytes of the largest file that is written.
    """

    folders: Sequence[str] = ("/workspace",)
    read_only: Sequence[str] = ()
    network: Network | Literal["none", "public"] = "none"
    environ: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    processes: int = 512
    file: int = 4 << 30

    def __post_init__(self) -> None:
        if not self.folders:
            raise InvalidArgument("folders=(): a sandbox needs one to work in")
        for name in ("folders", "read_only"):
            for path in getattr(self, name):
                if not path.startswith("/") or ".." in path.split("/"):
                    raise InvalidArgument(f"{name}: {path!r} is no absolute path without '..'")


class ProcessSandbox(AsyncSandbox):
    """A sandbox that is an instance of the process backend."""

    def __init__(self, backend: Backend, room: Room, folder: Path, control: socket.socket) -> None:
        super().__init__(
            self.stream,
            listen=self.listen_at,
            open_terminal=self.run_at_terminal,
            end_all=self.end_all,
            put=self.unpack,
        )
        self._backend = backend
        self._room = room
        self._folder = folder
        self._control = control
        self._streams: dict[int, SocketStream | RoomTerminal] = {}
        self._ended = asyncio.Event()
        self._ending: list[asyncio.Future[bool]] = []
        asyncio.get_running_loop().add_reader(control.fileno(), self._hear)

    @property
    def root(self) -> Path:
        """Where the server sees the sandbox's own files."""
        return self._folder / "root"

    @classmethod
    async def start(
        cls,
        backend: Backend,
        name: str,
        folder: Path,
        room: Room,
        labels: Mapping[str, str] | None = None,
    ) -> ProcessSandbox:
        """Start one.

        Args:
            name: of its instance, which `backend` lists under `labels`.
            folder: its own, absent or empty; gone once it is destroyed.

        Raises:
            FailedPrecondition: this host does not allow namespaces, or what is made in them.
        """
        user = _FIRST_USER + secrets.randbelow(_USERS) if os.geteuid() == 0 else os.geteuid()
        await asyncio.to_thread(_furnish, folder, room, user)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A path over a descriptor of the folder: socket paths are short.
        directory = os.open(folder, os.O_PATH)
        try:
            path = f"/proc/self/fd/{directory}/control"
            listener.bind(path)
            listener.listen(1)
            listener.setblocking(False)
            spec = _spec(
                name, folder, f"/proc/{os.getpid()}/fd/{directory}/control", room, user, labels
            )
            instance = await backend.create(spec)
            control = await _connected(listener, backend, name)
        except BaseException:
            await backend.destroy(name, grace=0)
            await _remove(folder)
            raise
        finally:
            os.close(directory)
            listener.close()
        self = cls(backend, room, folder, control)
        self._name = name
        self._pid = instance.pid
        return self

    _name = ""
    _pid: int | None = None

    async def destroy(self) -> None:
        """End it, with everything in it, and remove its folder."""
        await self.close()
        await self._backend.destroy(self._name, grace=0)
        if not self._ended.is_set():
            self._end()
        await _remove(self._folder)

    async def listen_at(self, port: int) -> socket.socket:
        """A socket at its loopback, which is the host's own where its network is "public"."""
        if self._pid is None or self._ended.is_set():
            raise SessionLost("the sandbox has ended")
        if self._room.network == "public":
            return listen_here(port)
        return await asyncio.to_thread(listen, self._pid, port, of="")

    async def unpack(self, tar: IO[bytes]) -> None:
        """New folders at its root."""
        await asyncio.to_thread(_unpack, self._folder, tar)

    async def end_all(self) -> None:
        """Have the room's own process, which nothing in it can end or be, kill all others."""
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ending.append(told)
        try:
            socket.send_fds(self._control, [b'{"end": true}'], [])
            async with asyncio.timeout(_END_WITHIN):
                ended = await told
        except (OSError, TimeoutError) as error:
            raise SessionLost(
                f"the sandbox has ended, or its main process is stuck: {error}"
            ) from error
        if not ended:
            raise FailedPrecondition("processes of the sandbox are still there after SIGKILL")

    async def stream(self, user: str | None) -> SocketStream:
        """A stream to a program that takes a sandbox's orders, from now on."""
        _check_user(user)
        ours, theirs = socket.socketpair()
        errors_read, errors_write = os.pipe()
        try:
            number = self._order(ARGV, [theirs.fileno(), errors_write])
        except BaseException:
            ours.close()
            os.close(errors_read)
            raise
        finally:
            theirs.close()
            os.close(errors_write)
        reader, writer = await asyncio.open_connection(sock=ours, limit=CHUNK)
        stream = SocketStream(reader, writer, errors_read)
        self._streams[number] = stream
        return stream

    async def run_at_terminal(
        self,
        argv: Sequence[str],
        kind: TerminalKind,
        user: str | None,
        environ: Mapping[str, str],
        directory: str | None,
    ) -> RoomTerminal:
        """A program at a terminal of the room's own."""
        _check_user(user)
        ours, theirs = socket.socketpair()
        ours.settimeout(_TERMINAL_WITHIN)
        with ours:
            try:
                variables = {**environ, "TERM": kind.name}
                number = self._order(argv, [theirs.fileno()], kind, variables, directory)
            finally:
                theirs.close()
            terminal = RoomTerminal()
            self._streams[number] = terminal
            try:
                _, passed, _, _ = await asyncio.to_thread(socket.recv_fds, ours, 64, 1)
            except OSError:
                passed = []
        if not passed:
            raise FailedPrecondition(
                "the sandbox gives no terminal: it has ended, or has 64 already"
            )
        terminal.begin(passed[0])
        return terminal

    def _order(
        self,
        argv: Sequence[str],
        passed: Sequence[int],
        terminal: TerminalKind | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> int:
        """Have the room run a program; its number."""
        number = len(self._streams) + 1
        order = {
            "number": number,
            "argv": list(argv),
            "directory": directory or self._room.folders[0],
            "environ": {**_environ(self._room), **(environ or {})},
            "terminal": None if terminal is None else [terminal.rows, terminal.columns],
        }
        try:
            socket.send_fds(self._control, [json.dumps(order).encode()], list(passed))
        except OSError as error:
            raise Unavailable(f"the sandbox has ended: {error}") from error
        return number

    def _hear(self) -> None:
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        told = json.loads(data)
        if "all_ended" in told:
            ending = self._ending.pop(0)
            if not ending.done():  # nobody waits any more
                ending.set_result(told["all_ended"])
            return
        self._streams[told["number"]].ended(told["status"])

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._ended.set()
        for ending in self._ending:
            if not ending.done():
                ending.set_exception(SessionLost("the sandbox has ended"))
        for stream in self._streams.values():
            stream.ended(None)


async def _connected(listener: socket.socket, backend: Backend, name: str) -> socket.socket:
    """The control socket of a room that is ready."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_START_WITHIN):
            control, _ = await loop.sock_accept(listener)
            said = await loop.sock_recv(control, 4096)
    except TimeoutError:
        raise FailedPrecondition(
            f"sandbox {name}: its main process did not start within {_START_WITHIN:g} s"
        ) from None
    told: dict[str, Any] = json.loads(said) if said else {"refused": "its main process was killed"}
    if "ready" in told:
        return control
    control.close()
    raise FailedPrecondition(
        f"sandbox {name}: this host does not allow a sandbox made of processes: {told['refused']}; it takes "
        "mount, process and network namespaces, as root or with user namespaces; else choose docker"
    )


async def _remove(folder: Path) -> None:
    try:
        await asyncio.to_thread(remove_tree, folder)
    except OSError as error:
        _log.warning("%s is left of a sandbox: %s", folder, error)


def _unpack(folder: Path, tar: IO[bytes]) -> None:
    """First beside the root, where nothing of the sandbox's own leads elsewhere."""
    with tempfile.TemporaryDirectory(dir=folder) as unpacked:
        try:
            with tarfile.open(fileobj=tar, mode="r|") as archive:
                archive.extractall(unpacked, filter="tar")
        except tarfile.TarError as error:
            raise InvalidArgument(f"tar: {error}") from error
        for one in Path(unpacked).iterdir():
            try:
                one.rename(folder / "root" / one.name)
            except OSError as error:
                raise FailedPrecondition(f"/{one.name} of the sandbox: {error.strerror}") from error


def _check_user(user: str | None) -> None:
    if user is not None:
        raise FailedPrecondition(
            f"user={user!r}: a sandbox made of processes has one user; leave it out, or choose docker"
        )


def _furnish(folder: Path, room: Room, user: int) -> None:
    root = folder / "root"
    own = [*room.folders, "/home/sandbox", "/tmp", "/var/tmp", "/run", "/root", "/srv", "/mnt"]
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    root.mkdir()
    root.chmod(0o1777)  # a task may have folders at the root; what is the room's own there stays
    for path in own:
        made = root / path.lstrip("/")
        made.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(made, user, user)
    for name, line in (
        ("passwd", f"sandbox:x:{user}:{user}::/home/sandbox:/bin/sh\n"),
        ("group", f"sandbox:x:{user}:\n"),
    ):
        host = Path("/etc", name)
        (folder / name).write_text((host.read_text() if host.exists() else "") + line)
        (folder / name).chmod(0o644)


def _spec(
    name: str, folder: Path, control: str, room: Room, user: int, labels: Mapping[str, str] | None
) -> InstanceSpec:
    limits = {"nproc": room.processes, "fsize": room.file, "nofile": 4096}
    if room.memory is not None:
        limits["as"] = room.memory
    settings = {
        "control": control,
        "parent": os.getpid(),
        "root": str(folder / "root"),
        "network": room.network,
        "read_only": list(room.read_only),
        "limits": limits,
        "uid": user,
    }
    return InstanceSpec(
        name,
        (sys.executable, "-I", "-S", str(_ROOM)),
        folder / "log",
        config=json.dumps(settings).encode(),
        environ={"PATH": _PATH},
        labels=labels or {},
    )


def _environ(room: Room) -> dict[str, str]:
    home = "/home/sandbox"
    return {
        "PATH": _PATH,
        "HOME": home,
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "USER": "sandbox",
        **room.environ,
    }
