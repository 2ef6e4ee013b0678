"""The tables of megaflow.toml that are about a backend: `[docker]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AllowInfNan, BaseModel, ConfigDict, PositiveFloat

from megaflow_server.backends.docker.options import DockerOptions

__all__ = ["DockerTable"]

Seconds = Annotated[PositiveFloat, AllowInfNan(False)]


class DockerTable(BaseModel):
    """The table `[docker]`: the engine, and which images it may have."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # The engine's Unix socket, unix:///path. Default: DOCKER_HOST, or unix:///var/run/docker.sock.
    address: str | None = None
    # What the names of its containers begin with; servers that share an engine and nothing else differ in it.
    # Default: "megaflow", so that a server finds what one before it left.
    scope: str | None = None
    # A registry that every image is fetched from, host[:port][/path]. Default: each image's own.
    mirror: str | None = None
    # Whether images must be pinned, as name@sha256:…. Default: no, since local builds have no digest.
    require_digest: bool | None = None
    # Whether the image of a task that is not there is built from its Dockerfile, as root, with the processors and the
    # memory of the profile. Default: no; of the server behind server=None, whose user it serves, yes.
    build: bool | None = None
    # What the steps of such a build reach. Default: "public", since most of them fetch packages.
    build_network: Literal["none", "public"] | None = None
    # How far instances are kept apart whose template does not say. Default: "strict", the most that there is.
    profile: Literal["strict", "standard", "trusted"] | None = None
    # Seconds for one answer of the engine. Default: 60, which a busy one needs for a removal.
    call_timeout: Seconds | None = None
    # Seconds without a word from a registry. Default: 120.
    pull_timeout: Seconds | None = None

    def options(self) -> DockerOptions:
        """What it says, over the defaults.

        Raises:
            InvalidArgument: a value that is none.
        """
        given = {name: value for name, value in self if value is not None and name != "build"}
        return DockerOptions(**given)
