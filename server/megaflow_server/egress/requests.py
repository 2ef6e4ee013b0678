"""What a client asks of a proxy, read from the head of its request; sans-IO."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megaflow_server.egress.hosts import split_port

__all__ = ["BadRequest", "Wanted", "answer", "read"]

# What is between a client and its proxy; "Host" is what the request's own line says.
_DROPPED = re.compile(rb"(?:proxy-[a-z-]+|connection|keep-alive|host|upgrade)\s*:", re.IGNORECASE)
_LINE = re.compile(rb"([A-Z]{1,20}) (\S{1,8000}) HTTP/1\.[01]")


class BadRequest(Exception):
    """It is no request that a proxy could carry out; with why."""


@dataclass(frozen=True)
class Wanted:
    """Where a client wants to go.

    Attributes:
        head: what is sent there first; empty for a tunnel, whose client says everything itself.
    """

    host: str
    port: int
    head: bytes

    @property
    def is_tunnel(self) -> bool:
        return not self.head


def read(head: bytes) -> Wanted:
    """What the head of a request, up to its empty line, wants.

    Raises:
        BadRequest: that cannot be told.
    """
    line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadRequest("this is a proxy, and that is no request of HTTP/1.1")
    if any(b"\n" in one or b"\r" in one for one in (line, *fields)):
        raise BadRequest("a field of its head is broken over lines")
    if any(one[:1] in (b" ", b"\t") for one in fields):
        raise BadRequest("a field of its head goes on in the next line")
    method, target = match[1], match[2].decode("ascii", "replace")
    if method == b"CONNECT":
        host, port = _place(target, None)
        return Wanted(host, port, b"")
    scheme, _, rest = target.partition("://")
    if scheme.lower() != "http" or not rest:
        raise BadRequest("this is a proxy: ask for http://host/…, or for CONNECT host:port")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = rest[len(authority) :].partition("#")[0]
    host, port = _place(authority, 80)
    kept = [one for one in fields if one and not _DROPPED.match(one)]
    path = path if path.startswith("/") else f"/{path}"
    lines = [
        b"%s %s HTTP/1.1" % (method, path.encode("ascii", "replace")),
        b"Host: " + authority.encode("ascii", "replace"),
        *kept,
        b"Connection: close",
    ]
    return Wanted(host, port, b"\r\n".join(lines) + b"\r\n\r\n")


def _place(authority: str, default: int | None) -> tuple[str, int]:
    try:
        host, port = split_port(authority, default)
    except ValueError:
        port = None
    if port is None:
        raise BadRequest(f"{authority!r} is no host with its port")
    return host, port


def answer(status: str, text: str) -> bytes:
    """A refusal."""
    body = f"megaflow: {text}\n".encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + body
