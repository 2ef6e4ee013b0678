"""What an engine writes on its host for each container, and shows there: /etc/hosts and the like. No layer has it.

Root in a container may write to them, and the engine does when its networks change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megaflow_server.attributes import attributes

__all__ = ["OwnFiles", "addresses"]

HOSTS, RESOLVER, HOSTNAME = "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"
_NAMES = {HOSTS: "HostsPath", RESOLVER: "ResolvConfPath", HOSTNAME: "HostnamePath"}
# Bytes: far more than an engine writes.
_MOST = 1 << 20


class OwnFiles:
    """Those of one container, by what the engine says of it once it has been started."""

    def __init__(self, inspected: Mapping[str, Any]) -> None:
        self._places = {
            path: Path(inspected[name]) for path, name in _NAMES.items() if inspected.get(name)
        }
        self._hostnames = {inspected["Config"].get("Hostname") or "", inspected["Id"][:12]}
        self._resolvers: set[bytes] = set()

    def describe(self, own: Sequence[str]) -> dict[str, str]:
        """Each by its path in the container, in a line that is the same as long as only the engine writes to it.

        Args:
            own: the addresses that the container has now.

        Raises:
            OSError: they cannot be looked at.
        """
        return {path: self._line(path, place, own) for path, place in self._places.items()}

    def _line(self, path: str, place: Path, own: Sequence[str]) -> str:
        status = place.lstat()
        content = self._content(path)
        if path == RESOLVER:
            if not self._resolvers:
                self._resolvers.add(content)
            content = b"" if content in self._resolvers else content
        elif path == HOSTS:
            content = self._without(content, own)
        digest = hashlib.sha256(content).hexdigest()
        return f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {digest} {attributes(place)}"

    def resolver(self) -> bytes | None:
        """What says how names are looked up, once it was described; else None."""
        return self._content(RESOLVER) if self._resolvers else None

    def switched(self, before: bytes | None) -> None:
        """The engine has put the container on another network, and may have written how names are looked up there.

        The first time that comes before an agent's commands, or after their end; later ones write nothing new.
        """
        if before in self._resolvers and len(self._resolvers) == 1:
            self._resolvers.add(self._content(RESOLVER))

    def _content(self, path: str) -> bytes:
        with self._places[path].open("rb") as file:
            return file.read(_MOST)

    def _without(self, content: bytes, own: Sequence[str]) -> bytes:
        """Lines of a table of hosts but those in which the engine names the container, one for each address."""
        left, kept = set(own), []
        for line in content.split(b"\n"):
            address, *names = line.decode("utf-8", "replace").split() or [""]
            if address in left and names and self._hostnames.issuperset(names):
                left.discard(address)
            else:
                kept.append(line)
        return b"\n".join(kept)


def addresses(inspected: Mapping[str, Any]) -> list[str]:
    """Those that a container has, by what the engine says of it."""
    networks = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    fields = ("IPAddress", "GlobalIPv6Address")
    return [one[name] for one in networks.values() for name in fields if one.get(name)]
