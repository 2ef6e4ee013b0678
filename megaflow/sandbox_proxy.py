"""What an environment gets as its `sandbox`: its calls, over a private socket, to the server that has one.

A call is one message each way on a connection of its own, as many connections as there are calls at a time;
a connection that ends takes its call with it. How messages look is in `sandbox_messages`.
"""

from __future__ import annotations

import os
import socket
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from megaflow import sandbox
from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    ResourceExhausted,
    SessionLost,
)
from megaflow.sandbox import OUTPUT_LIMIT, READ_LIMIT, ExecResult
from megaflow.sandbox_messages import BLOCK, Arguments, exchange, packed, result_of, value_of
from megaflow.sandbox_request import Phase

__all__ = ["SandboxProxy", "ShellProxy"]


# What Linux takes as a path, with the NUL at its end.
_PATH_MOST = 4096


class ShellProxy:
    """See `megaflow.sandbox.Shell`."""

    def __init__(self, proxy: SandboxProxy, number: int) -> None:
        self._proxy = proxy
        self._number = number

    def run(
        self, command: str, *, timeout: float | None = None, output_limit: int = OUTPUT_LIMIT
    ) -> ExecResult:
        arguments = {
            "shell": self._number,
            "command": command,
            "timeout": timeout,
            "output_limit": output_limit,
        }
        return result_of(self._proxy.call("shell_run", arguments))

    def close(self) -> None:
        self._proxy.call("shell_close", {"shell": self._number})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class SandboxProxy:
    """See `megaflow.sandbox.Sandbox`. Can be pickled, and used after a fork.

    Args:
        path: of the socket.
        capability: what opens it: for this session alone, and to be kept to oneself.
    """

    def __init__(self, path: str, capability: bytes) -> None:
        self._path = path
        self._capability = capability
        self._lock = threading.Lock()
        self._free: list[socket.socket] = []
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[Self], tuple[str, bytes]]:
        return type(self), (self._path, self._capability)

    def exec(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        arguments = {
            "command": command,
            "timeout": timeout,
            "cwd": cwd,
            "env": dict(env or {}),
            "user": user,
            "output_limit": output_limit,
        }
        return result_of(self.call("exec", arguments))

    def shell(
        self,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        interpreter: str = "/bin/sh",
    ) -> ShellProxy:
        arguments = {"cwd": cwd, "env": dict(env or {}), "user": user, "interpreter": interpreter}
        return ShellProxy(self, self.call("shell", arguments))

    def read_file(self, path: str, *, user: str | None = None, limit: int = READ_LIMIT) -> bytes:
        content = bytearray()
        block = 0
        while True:
            data = self.call("read_block", {"path": path, "block": block, "user": user})
            content += data
            if len(content) > limit:
                raise ResourceExhausted(
                    f"path={path!r}: over {limit} bytes; raise `limit`, or read part of it with a command"
                )
            if len(data) < BLOCK:
                return bytes(content)
            block += 1

    def write_file(self, path: str, data: bytes | str, *, user: str | None = None) -> None:
        try:
            content = memoryview(data.encode() if isinstance(data, str) else data)
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                f"data: {error}; give bytes, or text of whole characters"
            ) from None
        for at in range(0, max(1, len(content)), BLOCK):
            piece = bytes(content[at : at + BLOCK])
            self.call("write_block", {"path": path, "data": piece, "append": at > 0, "user": user})

    def upload(
        self, source: str | os.PathLike[str], target: str, *, user: str | None = None
    ) -> None:
        source = Path(source)
        if not source.exists():
            raise NotFound(f"source={str(source)!r}: no such file or folder here")
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
                name = "." if source.is_dir() else PurePosixPath(target).name
                tar.add(source, arcname=name, filter=_nobodys)
            packed.seek(0)
            folder = target if source.is_dir() else str(PurePosixPath(target).parent)
            with self._temporary(user) as remote:
                append = False
                while piece := packed.read(BLOCK):
                    self.call(
                        "write_block",
                        {"path": remote, "data": piece, "append": append, "user": user},
                    )
                    append = True
                unpack = 'mkdir -p -- "$T" && tar -xof "$F" -C "$T"'
                self._run("target", target, unpack, {"F": remote, "T": folder}, user)

    def download(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        user: str | None = None,
        limit: int = READ_LIMIT,
    ) -> None:
        found = self.exec(
            '[ -d "$S" ] && echo d || { [ -e "$S" ] && echo f; }', env={"S": source}, user=user
        )
        kind = found.stdout.strip()
        if not kind:
            raise NotFound(f"source={source!r}: no such file or folder in the sandbox")
        if kind == b"f":
            content = self.read_file(source, user=user, limit=limit)
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).write_bytes(content)
            return
        with self._temporary(user) as remote, tempfile.TemporaryFile() as packed:
            self._run("source", source, 'tar -cf "$F" -C "$S" .', {"F": remote, "S": source}, user)
            self._fetch(remote, packed, source, user, limit)
            packed.seek(0)
            try:
                with tarfile.open(fileobj=packed) as tar:
                    _check_members(tar, source, os.path.abspath(target))
                    Path(target).mkdir(parents=True, exist_ok=True)
                    tar.extractall(target, filter="data")
            except tarfile.FilterError as error:
                raise InvalidArgument(f"source={source!r}: {error}") from error
            except tarfile.TarError as error:
                raise FailedPrecondition(f"source={source!r}: cannot be packed: {error}") from error

    def enter(self, phase: Phase) -> None:
        self.call("enter", {"phase": phase})

    def end_processes(self) -> None:
        self.call("end_processes", {})

    def snapshot(self) -> str:
        return str(self.call("snapshot", {}))

    def restore(self, snapshot: str) -> None:
        self.call("restore", {"snapshot": snapshot})

    def close(self) -> None:
        """Close the connections that are not in use; the sandbox lives on."""
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def call(self, verb: str, arguments: Arguments) -> Any:
        """One call of what the server has; the proxy's own business."""
        message = packed({"verb": verb, **arguments})
        connection = self._connection()
        try:
            reply = exchange(connection, message)
        except OSError as error:
            connection.close()
            raise SessionLost(f"the sandbox is gone: {error}") from error
        except BaseException:  # an interrupt: the call must not go on unheard
            connection.close()
            raise
        with self._lock:
            self._free.append(connection)
        return value_of(reply)

    def _connection(self) -> socket.socket:
        with self._lock:
            if self._process != os.getpid():
                self._free, self._process = [], os.getpid()
            if self._free:
                return self._free.pop()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self._path)
            value_of(exchange(connection, packed({"capability": self._capability})))
        except OSError as error:
            connection.close()
            raise SessionLost(f"the sandbox is gone: {error}") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _fetch(self, remote: str, into: Any, source: str, user: str | None, limit: int) -> None:
        size = block = 0
        while True:
            data = self.call("read_block", {"path": remote, "block": block, "user": user})
            into.write(data)
            size += len(data)
            if size > limit:
                raise ResourceExhausted(f"source={source!r}: over {limit} bytes; raise `limit`")
            if len(data) < BLOCK:
                return
            block += 1

    def _run(
        self, name: str, path: str, command: str, env: Mapping[str, str], user: str | None
    ) -> None:
        done = self.exec(command, env=env, user=user)
        if done.exit_code:
            raise FailedPrecondition(
                f"{name}={path!r}: {done.stderr.text.strip() or done.exit_code}"
            )

    def _temporary(self, user: str | None) -> _Temporary:
        return _Temporary(self, user)


class _Temporary:
    """A path in the sandbox for a file that goes again."""

    def __init__(self, proxy: SandboxProxy, user: str | None) -> None:
        self._proxy = proxy
        self._user = user
        self._path = f"/tmp/.megaflow-{os.urandom(8).hex()}.tar"

    def __enter__(self) -> str:
        return self._path

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        try:
            self._proxy.exec('rm -f "$F"', env={"F": self._path}, user=self._user)
        except MegaflowError:
            if exc_type is None:
                raise


def _check_members(tar: tarfile.TarFile, source: str, target: str) -> None:
    """Raise for what cannot be unpacked, before any of it is."""
    for member in tar:
        if len(os.fsencode(os.path.join(target, member.name))) >= _PATH_MOST:
            raise FailedPrecondition(
                f"source={source!r}: {member.name[:80]!r}… would have a path of {_PATH_MOST} bytes or more here; "
                "have the sandbox pack it, and download that file"
            )
        tarfile.data_filter(member, target)


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A file belongs to whoever unpacks it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _is_a_sandbox(proxy: SandboxProxy) -> sandbox.Sandbox:
    """For the type checker alone: the proxy keeps the contract."""
    return proxy
