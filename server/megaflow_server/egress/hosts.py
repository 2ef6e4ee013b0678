"""Which hosts may be reached, and which addresses never are."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from megaflow.errors import InvalidArgument

__all__ = ["EVERYTHING", "NOTHING", "Hosts", "is_forbidden", "normal", "split_port"]

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
# Of an entry that names none: those of HTTP and HTTPS.
_PORTS = frozenset({80, 443})
# Where clouds tell their machines who they are, beside link-local addresses, which all are forbidden.
_METADATA = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16"))
)


@dataclass(frozen=True)
class Hosts:
    """A list of hosts, each with its ports; `everything` stands for all.

    Attributes:
        entries: names and addresses, normal, with their ports; "*.example.org" is every name below it.
    """

    entries: tuple[tuple[str, frozenset[int]], ...] = ()
    everything: bool = False

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Hosts:
        """From `name`, `name:port`, `*.name`, an address, or `[address]:port`.

        Raises:
            InvalidArgument: an entry is none of these; names it.
        """
        return cls(tuple(map(_entry, entries)))

    def allows(self, host: str, port: int) -> bool:
        """Whether a host, by the name that it is asked for by, may be reached at a port."""
        name = normal(host)
        return self.everything or any(
            port in ports and _is(name, pattern) for pattern, ports in self.entries
        )


EVERYTHING = Hosts(everything=True)
NOTHING = Hosts()


def normal(host: str) -> str:
    """One spelling for each host."""
    host = host.lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def split_port(text: str, default: int | None) -> tuple[str, int | None]:
    """The host and the port of `host`, `host:port`, `[address]` or `[address]:port`.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/@?#\s]+))(?::(\d{1,5}))?", text)
    if match is None:
        raise ValueError(text)
    port = default if match[3] is None else int(match[3])
    if port is not None and not 0 < port < 1 << 16:
        raise ValueError(text)
    return match[1] or match[2], port


def is_forbidden(address: str) -> bool:
    """Whether an address is this machine's own, or a cloud's for its machines: whatever has its name."""
    one = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(one, ipaddress.IPv6Address) and one.ipv4_mapped is not None:
        one = one.ipv4_mapped
    if one.is_loopback or one.is_link_local or one.is_unspecified or one.is_multicast:
        return True
    return one in _METADATA or _is_own(str(one), one.version)


def _is_own(address: str, version: int) -> bool:
    """Whether the way to an address begins and ends here; nothing is sent for that."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False  # there is no way to it at all
        return bool(probe.getsockname()[0] == address)


def _entry(text: str) -> tuple[str, frozenset[int]]:
    try:
        host, port = split_port(text if text.count(":") < 2 or "[" in text else f"[{text}]", None)
    except ValueError:
        host, port = "", None
    name = normal(host)
    if not _is_address(name) and not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{text!r} is no host: takes a name such as packages.example, *.packages.example for all below it, or "
            "an address, with :port where it is neither 80 nor 443"
        )
    return name, _PORTS if port is None else frozenset({port})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is(name: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern
