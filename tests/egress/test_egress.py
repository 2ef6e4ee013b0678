"""The proxy itself, at a socket of this host: whom it lets through, and what breaks when that changes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

import pytest

from megaflow_server.egress import EVERYTHING, NOTHING, Egress, Hosts, proxy


@pytest.fixture
async def there() -> AsyncIterator[int]:
    """The port of a host that says what it was asked, and then echoes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def egress(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Egress, int]]:
    """One that knows a few names, all of this machine, and takes its addresses for those of others."""

    async def look_up(host: str, port: int) -> Sequence[str]:
        if host == "unknown.test":
            raise OSError(0, "no such name")
        return ["169.254.169.254"] if host == "metadata.test" else ["127.0.0.1"]

    monkeypatch.setattr(proxy, "_look_up", look_up)
    monkeypatch.setattr(proxy, "is_forbidden", lambda address: address.startswith("169.254."))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    port = listener.getsockname()[1]
    made = Egress(listener)
    yield made, port
    await made.close()


async def ask(port: int, request: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    return reader, writer


async def refused(port: int, request: str) -> str:
    reader, writer = await ask(port, request)
    said = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    return said


def connect(host: str, port: int) -> str:
    return f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n"


async def test_a_tunnel_to_what_is_allowed(egress: tuple[Egress, int], there: int) -> None:
    made, port = egress
    made.allow(Hosts.parse([f"allowed.test:{there}"]))
    reader, writer = await ask(port, connect("allowed.test", there) + "early")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
    data = bytes(range(256)) * 4000
    writer.write(data)
    assert await reader.readexactly(5 + len(data)) == b"early" + data
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_plain_request_to_what_is_allowed(egress: tuple[Egress, int], there: int) -> None:
    made, port = egress
    made.allow(Hosts.parse([f"allowed.test:{there}"]))
    reader, writer = await ask(
        port, f"POST http://allowed.test:{there}/x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
    )
    writer.write_eof()
    said = (await asyncio.wait_for(reader.read(), 10)).decode()
    assert said.startswith(f"POST /x HTTP/1.1\r\nHost: allowed.test:{there}\r\n")
    assert said.endswith("\r\n\r\nbody")
    writer.close()


async def test_nothing_else(egress: tuple[Egress, int], there: int) -> None:
    made, port = egress
    assert "403" in await refused(port, connect("allowed.test", there))  # as long as nothing is
    made.allow(Hosts.parse([f"allowed.test:{there}", "unknown.test", "metadata.test"]))
    assert "not among the hosts" in await refused(port, connect("other.test", there))
    assert "not among the hosts" in await refused(port, connect("127.0.0.1", there))
    assert "not among the hosts" in await refused(port, connect("allowed.test", there + 1))
    assert "not among the hosts" in await refused(port, "GET http://other.test/ HTTP/1.1\r\n\r\n")
    assert "not known" in await refused(port, connect("unknown.test", 80))
    assert "address of this machine" in await refused(port, connect("metadata.test", 80))
    assert "400" in await refused(port, "GET / HTTP/1.1\r\n\r\n")
    made.allow(EVERYTHING)
    assert "address of this machine" in await refused(port, connect("metadata.test", 80))


async def test_what_is_open_breaks_when_it_is_allowed_no_longer(
    egress: tuple[Egress, int], there: int
) -> None:
    made, port = egress
    made.allow(Hosts.parse([f"one.test:{there}", f"two.test:{there}"]))
    one = await ask(port, connect("one.test", there))
    two = await ask(port, connect("two.test", there))
    for reader, _ in (one, two):
        await reader.readuntil(b"\r\n\r\n")
    made.allow(Hosts.parse([f"two.test:{there}"]))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(one[0].readexactly(1), 10)
    two[1].write(b"on")
    assert await asyncio.wait_for(two[0].readexactly(2), 10) == b"on"
    made.allow(NOTHING)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(two[0].readexactly(1), 10)
    for _, writer in (one, two):
        writer.close()


async def test_too_many_at_once_are_closed(
    egress: tuple[Egress, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_MOST", 3)
    _, port = egress
    open_ = [await ask(port, "") for _ in range(5)]
    ended = [asyncio.ensure_future(reader.read(1)) for reader, _ in open_]
    done, pending = await asyncio.wait(ended, timeout=0.3)
    assert (len(done), len(pending)) == (2, 3)
    for task in pending:
        task.cancel()
    for _, writer in open_:
        writer.close()
