"""Server addresses: gRPC targets, `host:port` or `unix:/path`."""

from __future__ import annotations

import ipaddress
import os
import re

from megaflow.errors import InvalidArgument

DEFAULT_PORT = 7447

# The kernel's sockaddr_un holds 108 bytes with the terminating zero.
MAX_SOCKET_PATH_BYTES = 107


_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]\s]+))(?::(?P<port>[0-9]{1,5}))?")


def normalise(address: str, *, name: str = "server") -> str:
    """The gRPC target for what a user wrote: the default port is added where there is none.

    `name` is the option that it was written for, in errors.
    """
    if not isinstance(address, str) or not address.strip():
        raise InvalidArgument(f"{name}={address!r} is no address: {_FORMS}")
    address = address.strip()
    if address.startswith("unix:"):
        return _unix(address, name)
    if "/" in address:
        raise InvalidArgument(f"{name}={address!r} is no gRPC target: {_FORMS}")
    host, port = split_host_port(address, name=name)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(address: str, *, name: str = "server") -> tuple[str, int]:
    """Host (without brackets) and port of `host`, `host:port`, `v6`, `[v6]` or `[v6]:port`."""
    if _is_v6(address):
        return address, DEFAULT_PORT
    found = _HOST_PORT.fullmatch(address)
    port = int((found and found["port"]) or DEFAULT_PORT)
    if found is None or port > 65535 or (found["v6"] and not _is_v6(found["v6"])):
        raise InvalidArgument(f"{name}={address!r} has no valid host and port: {_FORMS}")
    return found["v6"] or found["host"], port


def _is_v6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _unix(address: str, name: str) -> str:
    path = address.removeprefix("unix:").removeprefix("//")
    size = len(os.fsencode(path))
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{name}={address!r}: the path of a Unix socket must be absolute")
    if size > MAX_SOCKET_PATH_BYTES:
        raise InvalidArgument(
            f"{name}={address!r}: the path of a Unix socket is at most {MAX_SOCKET_PATH_BYTES} bytes, "
            f"this one has {size}"
        )
    return f"unix:{path}"


_FORMS = f"write host:port (the default port is {DEFAULT_PORT}) or unix:/path"
