"""What an operator says about a Docker Engine and its images."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow_server.backends.spec import Network, Profile

__all__ = ["DEFAULT_ADDRESS", "DockerOptions"]

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"

_SCOPE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")


@dataclass(frozen=True)
class DockerOptions:
    """How to reach the engine, and which images it may have.

    Attributes:
        address: of the engine's Unix socket: `unix:///path`. Docker's own DOCKER_HOST where it is not given.
        scope: whose containers these are: their names begin with it, and a backend sees those of its own
            scope alone. Two servers with one engine either differ in it or share what they start.
        mirror: `host[:port][/path]` of a registry that stands in for every other one; an image keeps its name.
        require_digest: whether an image must be pinned, as `name@sha256:…`.
        profile: of instances whose specification names none.
        build_network: what the steps of a build reach.
        call_timeout: seconds for one answer of the engine.
        pull_timeout: seconds without a word from a registry until it counts as unreachable.
    """

    address: str = field(
        default_factory=lambda: os.environ.get("DOCKER_HOST", "") or DEFAULT_ADDRESS
    )
    scope: str = "megaflow"
    mirror: str | None = None
    require_digest: bool = False
    profile: Profile = "strict"
    build_network: Network = "public"
    call_timeout: float = 60.0
    pull_timeout: float = 120.0

    def __post_init__(self) -> None:
        if not _SCOPE.fullmatch(self.scope):
            raise InvalidArgument(
                f"scope={self.scope!r}: takes 1 to 32 lower-case letters, digits, '_', '.' and '-'"
            )

    @property
    def socket(self) -> Path:
        """The engine's socket.

        Raises:
            FailedPrecondition: the engine is reached in another way.
        """
        scheme, _, path = self.address.partition("://")
        if scheme != "unix" or not path.startswith("/"):
            raise FailedPrecondition(
                f"address={self.address!r}: the docker backend reaches an engine of its own host, at "
                "unix:///path: it shares folders and sockets with its containers"
            )
        return Path(path)
