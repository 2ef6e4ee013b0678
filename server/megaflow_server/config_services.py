"""What a server is for, as its configuration says it, and what is left of `[server]` where that is models alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from megaflow.errors import InvalidArgument
from megaflow_server.gateway.served import SERVICES

if TYPE_CHECKING:
    from megaflow_server.config import ServerConfig

__all__ = ["Service", "models_alone"]


def _service(name: str) -> str:
    if name == "agents":
        raise ValueError(
            "there is no service of agents: they run with their tasks, which a server with environments and --store has"
        )
    if name not in SERVICES:
        raise ValueError(f"give {' or '.join(SERVICES)}")
    return name


Service = Annotated[str, AfterValidator(_service)]

# Fields about environments and their tasks, and what stands for none of these; the other fields ask for nothing.
_NONE: Mapping[str, Any] = {
    "store": None,
    "runners": None,
    "backend": "process",
    "worker_image": None,
    "data_host": None,
    "modules": [],
}
_MOOT = (
    "workers",
    "max_workers",
    "max_sessions_per_worker",
    "worker_memory_limit",
    "allow_import",
    "concurrency",
    "step_timeout",
)


def models_alone(server: ServerConfig, given: Mapping[str, Any]) -> ServerConfig:
    """A server without environments: a file may say something of them for other servers, an option may not.

    The same goes for where sessions of models are recorded, where there is no HTTP to open some.

    Args:
        given: the options, by the names of their keys in a file.

    Raises:
        InvalidArgument: names the option.
    """
    for field in (*_NONE, *_MOOT):
        key = type(server).model_fields[field].alias or field
        if key in given:
            raise InvalidArgument(
                f"--{key.replace('_', '-')} {given[key]!r}: is for environments and their tasks, which this server is "
                f"not to serve: leave it out, or give --serve {','.join(SERVICES)}"
            )
    unheard = server.http is None and "trajectories" not in given
    return server.model_copy(update={**_NONE, **({"trajectories": None} if unheard else {})})
