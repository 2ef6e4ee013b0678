"""Server addresses: gRPC targets, `host:port` or `unix:/path`."""

from __future__ import annotations

from megaflow.errors import InvalidArgument

DEFAULT_PORT = 7447

# The kernel's sockaddr_un holds 108 bytes with the terminating zero.
MAX_SOCKET_PATH_BYTES = 107


def normalise(address: str) -> str:
    """The gRPC target for what a user wrote: the default port is added where there is none."""
    if not isinstance(address, str) or not address.strip():
        raise InvalidArgument(f"server={address!r} is no address: {_FORMS}")
    address = address.strip()
    if address.startswith("unix:"):
        return _unix(address)
    if "://" in address or "/" in address:
        raise InvalidArgument(f"server={address!r} is no gRPC target: {_FORMS}")
    host, port = split_host_port(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of `host`, `host:port`, `[v6]` or `[v6]:port`."""
    host, port = address, ""
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        port = rest.removeprefix(":")
    elif address.count(":") == 1:
        host, _, port = address.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and int(port) < 65536)):
        raise InvalidArgument(f"server={address!r} has no valid host and port: {_FORMS}")
    return host, int(port) if port else DEFAULT_PORT


def _unix(address: str) -> str:
    path = address.removeprefix("unix:").removeprefix("//")
    if not path.startswith("/"):
        raise InvalidArgument(f"server={address!r}: the path of a Unix socket must be absolute")
    if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        raise InvalidArgument(
            f"server={address!r}: the path of a Unix socket is at most {MAX_SOCKET_PATH_BYTES} bytes, "
            f"this one has {len(path.encode())}"
        )
    return f"unix:{path}"


_FORMS = f"write host:port (the default port is {DEFAULT_PORT}) or unix:/path"
