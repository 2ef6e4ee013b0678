"""Programs over websockets: `exec`, `attach` and what the sub-protocols v4 and v5 of `channel.k8s.io` say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import Any

from aiohttp import WSMsgType, web

from megaflow_server.testing.kube.pods import Container, begin
from megaflow_server.testing.kube.store import Object

__all__ = ["attach", "execute"]

_V4, _V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_CHUNK = 1 << 15


async def execute(request: web.Request, pod: Object, container: Container) -> web.WebSocketResponse:
    """Run a program beside a pod's own and carry it until it ends."""
    socket = await _open(request)
    argv = request.query.getall("command", [])
    try:
        process = await begin(argv, pod["spec"]["containers"][0], stdin=_wants(request, "stdin"))
    except (OSError, IndexError) as error:
        message = f'exec: "{argv[0] if argv else ""}": executable file not found: {error}'
        await _finish(socket, _failure("InternalError", message, 500))
        return socket
    container.programs.add(process)
    if container.over or container.process.returncode is not None:
        container.signal(signal.SIGKILL)
    listening = asyncio.ensure_future(_listen(socket, process.stdin))
    try:
        await asyncio.gather(
            _say(socket, _STDOUT, process.stdout), _say(socket, _STDERR, process.stderr)
        )
        await _finish(socket, _ended(await process.wait()))
    finally:
        listening.cancel()
        container.programs.discard(process)
        if (
            process.returncode is None
        ):  # the client went away: what reads its input sees the end of it
            container.programs.add(process)
            if process.stdin is not None:
                process.stdin.close()
    return socket


async def attach(request: web.Request, container: Container) -> web.WebSocketResponse:
    """Carry a pod's own process: its input, and its output from now on."""
    socket = await _open(request)
    stdin = container.process.stdin if _wants(request, "stdin") else None
    listening = asyncio.ensure_future(_listen(socket, stdin))
    try:
        sent = len(container.output)
        while not socket.closed:
            while sent < len(container.output):
                part = bytes(container.output[sent : sent + _CHUNK])
                await _send(socket, _STDOUT, part)
                sent += len(part)
            if container.over:
                await _finish(socket, {"metadata": {}, "status": "Success"})
                break
            news = asyncio.ensure_future(container.news())
            await asyncio.wait([news, listening], return_when="FIRST_COMPLETED")
            news.cancel()
    finally:
        listening.cancel()
    return socket


async def _open(request: web.Request) -> web.WebSocketResponse:
    # As the API server does: messages of any size, the newest protocol that both speak.
    socket = web.WebSocketResponse(protocols=(_V5, _V4), max_msg_size=0)
    await socket.prepare(request)
    return socket


def _wants(request: web.Request, name: str) -> bool:
    return request.query.get(name, "") in ("true", "True", "1")


async def _listen(socket: web.WebSocketResponse, stdin: asyncio.StreamWriter | None) -> None:
    """Pass input on until the client goes away, or says that it ends."""
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data or stdin is None:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == _CLOSE and socket.ws_protocol == _V5 and data == bytes([_STDIN]):
            stdin.close()
        elif channel == _STDIN and not stdin.is_closing():
            stdin.write(data)
            with contextlib.suppress(ConnectionError):  # of a program that reads no more
                await stdin.drain()
    if stdin is not None:
        stdin.close()


async def _say(
    socket: web.WebSocketResponse, channel: int, output: asyncio.StreamReader | None
) -> None:
    while output is not None and (data := await output.read(_CHUNK)):
        await _send(socket, channel, data)


async def _send(socket: web.WebSocketResponse, channel: int, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # who is gone does not stop the program
        await socket.send_bytes(bytes([channel]) + data)


async def _finish(socket: web.WebSocketResponse, status: dict[str, Any]) -> None:
    await _send(socket, _STATUS, json.dumps(status).encode())
    # The client has its time to answer; nobody waits for one that does not.
    with contextlib.suppress(ConnectionError):
        await socket.close()


def _ended(code: int) -> dict[str, Any]:
    code = 128 - code if code < 0 else code
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    cause = {"reason": "ExitCode", "message": str(code)}
    message = f"command terminated with non-zero exit code: exit status {code}"
    return _failure("NonZeroExitCode", message, 0) | {"details": {"causes": [cause]}}


def _failure(reason: str, message: str, code: int) -> dict[str, Any]:
    about = {"reason": reason, "message": message} | ({"code": code} if code else {})
    return {"metadata": {}, "status": "Failure", **about}
