"""What a gateway is started with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megaflow.embedded import import_paths
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.backends import Backend, get_backend
from megaflow_server.gateway.listeners import Access
from megaflow_server.gateway.served import SERVICES
from megaflow_server.gateway.session_settings import SessionSettings
from megaflow_server.images.demand import Engine
from megaflow_server.requested import PROFILES, Most
from megaflow_server.templates import Template

__all__ = ["GatewaySettings"]


@dataclass(frozen=True)
class GatewaySettings:
    """What a gateway is started with.

    Attributes:
        listen: addresses, as users write them.
        access: who may connect there.
        data_host: under which name or address clients on other machines reach the workers themselves; None:
            they do not, and the gateway relays.
        max_workers: how many workers there may be.
        workers: how many of these each principal may have, since none is shared; None: all.
        max_sessions_per_worker: sessions that a worker hosts, one after the other or at once, before a fresh
            one takes its place; None: no limit.
        worker_memory_limit: bytes that a worker takes with all its processes; from 80 % of it on a fresh one
            takes its place when its sessions have ended, and over it, it is ended with them. None: no limit.
        heartbeat_timeout: seconds without a heartbeat after which a worker is ended with its sessions.
        log_bytes: size at which a log file is begun anew, its old end kept beside it.
        warm_workers: how many are started at once; the rest as sessions need them.
        code_folder: the private folder of an embedded server.
        worker_image: what workers are containers of, where the backend has images: an image with megaflow in
            it, such as server/deploy/Dockerfile makes.
        sessions: how many sessions there may be, and how long they live.
        templates: what sandboxes are made of, by name.
        most: what requests for sandboxes that name no template may ask for.
        open_backend: makes the backend of a template, where that is another than the workers'.
        open_builds: opens what builds the images of tasks when they are asked for; None: they are to be there.
        state: the folder with the runs of this host's servers; None: the user's.
        withheld: variables of the server's environment that its workers do not get: keys of providers.
        served: environments, models or both; whoever asks for the other is refused.
        stop_grace: what environments get to close when the server ends, before their worker is killed; seconds.
    """

    folder: Path
    listen: Sequence[str]
    max_workers: int
    warm_workers: int
    access: Access = field(default_factory=Access)
    data_host: str | None = None
    workers: int | None = None
    max_sessions_per_worker: int | None = None
    worker_memory_limit: int | None = None
    heartbeat_timeout: float = 60.0
    log_bytes: int = 10 << 20
    modules: Sequence[str] = ()
    code_policy: pb.CodePolicy = pb.CODE_POLICY_REGISTERED
    code_folder: Path | None = None
    worker_image: str | None = None
    sessions: SessionSettings = field(default_factory=SessionSettings)
    templates: Mapping[str, Template] = field(default_factory=dict)
    most: Most = PROFILES
    open_backend: Callable[[str], Backend] = get_backend
    open_builds: Callable[[], Engine] | None = None
    state: Path | None = None
    withheld: frozenset[str] = frozenset()
    served: Collection[str] = SERVICES
    stop_grace: float = 3.0
    import_paths: Sequence[str] = field(default_factory=import_paths)
    directory: Path = field(default_factory=Path.cwd)
