"""Serves one sandbox to one session: a private socket that a capability opens, and nothing else does."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

from megaflow.errors import (
    InvalidArgument,
    MegaflowError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SessionLost,
    Unavailable,
)
from megaflow.sandbox import ExecResult, Output
from megaflow.sandbox_proxy import SandboxProxy
from megaflow_server.sandbox.kept_shell import AsyncShell
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["Door"]

_log = logging.getLogger(__name__)

# Bytes of a request: a block of a file or a command, and what is around it.
_REQUEST_MOST = 2 << 20
_CONNECTIONS_MOST = 256
_SHELLS_MOST = 64
_HELLO_WITHIN = 5.0
# Seconds in which whoever hears of a sandbox's loss gets to end who has it.
_UNANSWERED = 10.0
_LENGTH = 4


class Door:
    """Serves a sandbox on a Unix socket.

    Args:
        folder: where the socket is made; its mode keeps others out, so 0700.

    Attributes:
        path: of the socket.
        capability: 128 random bits, new for each door.
        on_lost: hears that the sandbox is lost, once somebody asks it for something; who asks is not answered, since
            it is to be ended. None: who asks is told.
    """

    on_lost: Callable[[SessionLost], None] | None = None

    def __init__(self, sandbox: AsyncSandbox, folder: Path) -> None:
        self._sandbox = sandbox
        self.path = str(folder / f"{secrets.token_hex(4)}.sock")
        self.capability = secrets.token_bytes(16)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._shells: dict[int, AsyncShell] = {}
        self._last_shell = 0
        self._verbs: Mapping[str, Callable[[dict[str, Any]], Awaitable[object]]] = {
            "exec": self._exec,
            "shell": self._shell,
            "shell_run": self._shell_run,
            "shell_close": self._shell_close,
            "read_block": lambda given: sandbox.read_block(**given),
            "write_block": lambda given: sandbox.write_block(**given),
            "enter": self._enter,
            "end_processes": self._end_processes,
            "snapshot": lambda given: sandbox.snapshot(**given),
            "restore": self._restore,
        }

    async def open(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_unix_server(self._accept, self.path)
        os.chmod(self.path, 0o600)

    def proxy(self) -> SandboxProxy:
        """What goes through this door, for the environment."""
        return SandboxProxy(self.path, self.capability)

    async def take_over(self, snapshot: str) -> None:
        """See `AsyncSandbox.take_over`; not for who comes through the door."""
        await self._sandbox.take_over(snapshot)
        self._shells.clear()

    async def close(self) -> None:
        """Shut it, with every call that is under way; the sandbox is its owner's to close."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.to_thread(Path(self.path).unlink, missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await self._admit(reader, writer):
                await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            return  # whoever called has gone
        finally:
            writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(_HELLO_WITHIN):
            length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
            hello = await _message(reader, min(length, 4096))
        given = hello.get("capability") if isinstance(hello, dict) else None
        error: MegaflowError | None = None
        if not isinstance(given, bytes) or not hmac.compare_digest(given, self.capability):
            error = PermissionDenied("this capability does not open this sandbox")
        elif len(self._connections) > _CONNECTIONS_MOST:
            error = ResourceExhausted(
                f"{_CONNECTIONS_MOST} calls of this sandbox are under way; wait for one",
                retry_after=1.0,
            )
        await _send(writer, {"value": None} if error is None else _refusal(error))
        return error is None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        following = loop.create_task(reader.readexactly(_LENGTH))
        try:
            while True:
                length = int.from_bytes(await following, "big")
                request = await _message(reader, length)
                # What comes while a call is under way can only be the end of the connection, and of the call.
                following = loop.create_task(reader.readexactly(_LENGTH))
                call = loop.create_task(self._call(request))
                try:
                    await asyncio.wait({call, following}, return_when=asyncio.FIRST_COMPLETED)
                    if not call.done():
                        return
                finally:
                    if not call.done():
                        call.cancel()
                        await asyncio.gather(call, return_exceptions=True)
                await _send(writer, call.result())
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _call(self, request: object) -> Mapping[str, object]:
        try:
            if not isinstance(request, dict):
                raise InvalidArgument("a request is a map")
            given = dict(request)
            verb = self._verbs.get(given.pop("verb", None))
            if verb is None:
                raise InvalidArgument(f"verb={request.get('verb')!r}: a sandbox has no such verb")
            try:
                return {"value": _packable(await verb(given))}
            except TypeError as error:
                raise InvalidArgument(f"{request.get('verb')}: {error}") from error
        except SessionLost as error:
            if await self._sandbox.recover():
                self._shells.clear()
                return _refusal(
                    Unavailable(
                        "what served the sandbox was killed from within; all that ran in it was ended, and it can "
                        f"be used again ({error.message})"
                    )
                )
            if self.on_lost is not None:
                self.on_lost(error)
                await asyncio.sleep(_UNANSWERED)
            return _refusal(error)
        except MegaflowError as error:
            return _refusal(error)
        except Exception as error:  # a fault of ours, which must not look like the sandbox's end
            _log.exception("a call of a sandbox failed")
            return _refusal(
                MegaflowError(f"the server failed at this: {error!r}; its log has more")
            )

    async def _exec(self, given: dict[str, Any]) -> ExecResult:
        return await self._sandbox.exec(given.pop("command"), **given)

    async def _shell(self, given: dict[str, Any]) -> int:
        if len(self._shells) >= _SHELLS_MOST:
            raise ResourceExhausted(f"{_SHELLS_MOST} shells of this sandbox are open; close one")
        shell = await self._sandbox.shell(**given)
        self._last_shell += 1
        self._shells[self._last_shell] = shell
        return self._last_shell

    async def _shell_run(self, given: dict[str, Any]) -> ExecResult:
        shell = self._shells.get(given.pop("shell"))
        if shell is None:
            raise NotFound("this shell was closed; open another")
        return await shell.run(given.pop("command"), **given)

    async def _shell_close(self, given: dict[str, Any]) -> None:
        shell = self._shells.pop(given["shell"], None)
        if shell is not None:
            await shell.close()

    async def _enter(self, given: dict[str, Any]) -> None:
        await self._sandbox.enter(**given)
        if given["phase"] == "verifier":
            self._shells.clear()  # which have ended with all that ran

    async def _end_processes(self, given: dict[str, Any]) -> None:
        await self._sandbox.end_processes(**given)
        self._shells.clear()

    async def _restore(self, given: dict[str, Any]) -> None:
        await self._sandbox.restore(**given)
        self._shells.clear()


def _packable(value: object) -> object:
    if isinstance(value, ExecResult):
        return value.exit_code, _parts(value.stdout), _parts(value.stderr), value.timed_out
    return value


def _parts(output: Output) -> tuple[bytes, int, int]:
    return bytes(output), output.omitted, output.cut


def _refusal(error: MegaflowError) -> Mapping[str, object]:
    return {
        "error": type(error).__name__,
        "message": error.message,
        "retry_after": error.retry_after,
    }


async def _message(reader: asyncio.StreamReader, length: int) -> Any:
    if length > _REQUEST_MOST:
        raise ConnectionError(f"a request of {length} bytes")
    try:
        return msgpack.unpackb(await reader.readexactly(length))
    except ValueError as error:
        raise ConnectionError("a request that is no msgpack") from error


async def _send(writer: asyncio.StreamWriter, message: Mapping[str, object]) -> None:
    data = msgpack.packb(message)
    writer.write(len(data).to_bytes(_LENGTH, "big") + data)
    await writer.drain()
