"""A gateway put together: its folder, its workers, its listeners, and how all of it ends."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from megaflow.embedded import FOLDER_VARIABLE
from megaflow.errors import FailedPrecondition, InvalidArgument, Unavailable
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.transport.address import MAX_SOCKET_PATH_BYTES
from megaflow.transport.credentials import TOKEN_VARIABLE
from megaflow_server import marks
from megaflow_server.backends import Backend
from megaflow_server.backends.opened import OpenedBackends
from megaflow_server.gateway.auth import RUN, Principal, principal
from megaflow_server.gateway.calls import Context
from megaflow_server.gateway.data_host import DataHost
from megaflow_server.gateway.drain import drain
from megaflow_server.gateway.forwarding import Forwarding
from megaflow_server.gateway.health import Health
from megaflow_server.gateway.inside import Inside
from megaflow_server.gateway.lending import Lending
from megaflow_server.gateway.listeners import Listeners
from megaflow_server.gateway.models import ModelsService
from megaflow_server.gateway.pooling import Pooling, breakers
from megaflow_server.gateway.relay import Relay
from megaflow_server.gateway.runners import RunnersService
from megaflow_server.gateway.served import check_served
from megaflow_server.gateway.service import GatewayService
from megaflow_server.gateway.sessions import Sessions
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.snapshots import Snapshots
from megaflow_server.gateway.supervisor import Supervisor
from megaflow_server.gateway.tasks import TasksService
from megaflow_server.gateway.wanted import Wanted
from megaflow_server.gateway.watchdog import check_empty
from megaflow_server.gateway.worker_settings import WorkerSettings
from megaflow_server.gateway.workers import WorkerHandle
from megaflow_server.images import OnDemand
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.pool import Pools
from megaflow_server.pool.reaper import FOLDER_PREFIX, Reaper
from megaflow_server.removal import remove_tree
from megaflow_server.runs import Run, state_folder

if TYPE_CHECKING:
    from megaflow_server.models.service import ModelService

_SERVICES = tuple(
    f"megaflow.v1.{name}" for name in ("Gateway", "Sessions", "Tasks", "Models", "Runners")
)
# Between two looks at which tokens have expired; seconds.
_EXPIRY_INTERVAL = 1.0
# The longest name of a worker's socket in a gateway's folder.
_SOCKET_NAME_BYTES = len("/worker-9999-999999.sock")


class Gateway:
    """A running gateway; an asynchronous context manager.

    Args:
        orchestrator: what keeps its tasks, running already; None: it takes none.

    Attributes:
        models: what answers its clients' calls of models; None: they are refused. Put here by whoever has it.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        backend: Backend,
        orchestrator: Orchestrator | None = None,
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._orchestrator = orchestrator
        self.models: ModelService | None = None
        self.id = secrets.token_hex(8)
        self.sessions = Sessions(settings.sessions)
        self.supervisor: Supervisor
        self.pools: Pools
        self._lending: Lending
        self._wanted: Wanted
        self._snapshots: Snapshots
        self._inside: Inside
        self.reaper: Reaper
        self.health = Health(frozenset(_SERVICES))
        self._listeners: Listeners | None = None
        self._expiring: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> list[str]:
        """What clients may write as server=, once it is entered."""
        return [] if self._listeners is None else self._listeners.addresses

    @property
    def sockets(self) -> list[Path]:
        """The socket files that it listens at."""
        paths = (one.removeprefix("unix:") for one in self.addresses if one.startswith("unix:"))
        return [Path(path) for path in paths]

    @property
    def token_files(self) -> list[Path]:
        """The files in which it left a token for programs of its own user."""
        return [] if self._listeners is None else self._listeners.token_files

    async def __aenter__(self) -> Gateway:
        settings = self._settings
        if settings.worker_image is not None:
            if settings.data_host is not None:
                raise FailedPrecondition(
                    f"data_host={settings.data_host!r} with worker_image={settings.worker_image!r}: a worker in a "
                    "container has no network, so that the gateway relays for it; leave one of them out"
                )
            await self._backend.prepare(settings.worker_image)
        self._use_backends()
        (settings.folder / "log").mkdir(mode=0o700, exist_ok=True)
        self.supervisor = Supervisor(
            self._backend,
            self._worker_settings(),
            workers_each=settings.workers or settings.max_workers,
            max_workers=settings.max_workers,
            on_death=self.sessions.worker_died,
            on_closed=self.sessions.shard_closed,
        )
        self._wanted = Wanted(
            self.pools,
            settings.templates,
            contained=settings.worker_image is not None,
            images=OnDemand(settings.open_builds),
            most=settings.most,
        )
        self._lending = Lending(self.pools, settings.folder, self._wanted)
        self.sessions.use(self.supervisor, self._lending)
        self._snapshots = Snapshots(self.sessions.shard, self._lending, time.monotonic)
        self._inside = Inside(self.sessions.session, self._lending, self._snapshots, self.pools)
        self.reaper.image_owners += [self._snapshots.owns, self._inside.owns]
        try:
            self._listeners = await self._listen()
            if settings.access.token_file is not None:
                self._expiring = asyncio.create_task(self._expire(self._listeners))
            self.supervisor.warm(settings.warm_workers)
            self.reaper.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends listeners and workers. Idempotent."""
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.wait({self._expiring})
        if self._listeners is not None:
            await self._listeners.stop(grace=None)
        await self.sessions.stop()
        grace = self._settings.stop_grace
        ending = asyncio.create_task(self.supervisor.stop(grace=grace))
        # Environments may use their sandboxes to close, and not for ever.
        await asyncio.wait({ending}, timeout=grace / 3)
        await self._lending.stop()
        await asyncio.gather(ending, self.pools.stop())
        await self.reaper.stop()
        await self._backends.close()

    async def drain(self, *, grace: float, hurry: asyncio.Event) -> None:
        """Takes no more sessions, calls and tasks, and gives those that there are so many seconds; see `drain`."""
        if self._orchestrator is not None:
            self._orchestrator.leave()
        draining = [drain(self.sessions, self.health, grace=grace, hurry=hurry)]
        if self.models is not None:
            draining.append(self.models.drain(grace=grace, hurry=hurry))
        await asyncio.gather(*draining)

    def principal(self, token: str) -> Principal:
        """Whose token this is. Raises Unauthenticated."""
        assert self._listeners is not None
        return self._listeners.principal(token)

    def holders(self) -> frozenset[str]:
        """The principals that may have sessions."""
        assert self._listeners is not None
        return self._listeners.holders()

    def reload(self) -> None:
        """Reads the token file again; one that is broken leaves the tokens as they are, and is logged.

        Sessions of principals that have no token any more end.
        """
        if self._listeners is not None:
            self._listeners.reload()
            self.sessions.keep_only(self._listeners.holders())

    async def _expire(self, listeners: Listeners) -> None:
        """Ends, for ever, the sessions of principals whose last token has expired."""
        while True:
            await asyncio.sleep(_EXPIRY_INTERVAL)
            self.sessions.keep_only(listeners.holders())

    async def ready(self) -> None:
        """Waits until the first workers serve, and the images of templates are at hand.

        Raises Unavailable with a log where they cannot, and InvalidArgument where that is in what this server was
        told: a module, a host, less memory than they take before they have done anything. What a template asks
        for and cannot have is raised as it is: see `Pools.start`.
        """
        await asyncio.gather(*map(self._came_up, self.supervisor.workers), self.pools.start())

    async def _came_up(self, worker: WorkerHandle) -> None:
        try:
            await asyncio.shield(worker.ready)
        except Unavailable as error:
            raise InvalidArgument(worker.refusal) if worker.refusal else error from None
        limit = self._settings.worker_memory_limit
        if limit is not None:
            await check_empty(worker, limit)

    def _use_backends(self) -> None:
        settings = self._settings
        state = settings.state or state_folder()
        run = Run(self.id, os.getpid(), marks.RUN, str(settings.folder))
        self.reaper = Reaper(state, run, lambda: self._backends.all())
        self._backends = OpenedBackends(self._backend, settings.open_backend, self.reaper.use)
        folder = settings.folder / "sandboxes"
        self.pools = Pools(self._backends, run=self.id, folder=folder, templates=settings.templates)
        self.reaper.owners += [self.pools.owns, lambda name: self.supervisor.owns(name)]

    def _worker_settings(self) -> WorkerSettings:
        settings = self._settings
        # A worker must not take its own server for the one that its environments may use, nor show these
        # somebody's token.
        dropped = {FOLDER_VARIABLE, TOKEN_VARIABLE, *settings.withheld}
        environ = {key: value for key, value in os.environ.items() if key not in dropped}
        environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        return WorkerSettings(
            folder=settings.folder,
            parent=os.getpid(),
            import_paths=list(settings.import_paths),
            environ=environ,
            directory=settings.directory,
            labels={"run": self.id},
            modules=list(settings.modules),
            code_policy=settings.code_policy,
            code_folder=settings.code_folder,
            data_host=(
                None if settings.data_host is None else DataHost(settings.data_host, self.id)
            ),
            # Some of it is the worker's own, before the backend kills it.
            close_grace=0.75 * settings.stop_grace,
            max_sessions=settings.max_sessions_per_worker,
            memory_limit=settings.worker_memory_limit,
            heartbeat_timeout=settings.heartbeat_timeout,
            log_limit=settings.log_bytes,
            image=settings.worker_image,
        )

    async def _listen(self) -> Listeners:
        settings = self._settings
        service = GatewayService(
            self.sessions,
            self.supervisor,
            Pooling(self.pools, self.supervisor, self._wanted),
            self._snapshots,
            self._inside,
            Forwarding(self._inside),
            server_id=self.id,
            code_policy=settings.code_policy,
            caller=lambda: principal().name,
            runs=lambda: RUN in principal().scopes,
        )

        async def check(method: str, caller: Principal, context: Context) -> None:
            check_served(method, settings.served)
            await service.check(method, caller, context)

        listeners = Listeners(settings.access, check)
        pb_grpc.add_GatewayServicer_to_server(service, listeners.server)
        tasks = TasksService(
            self._orchestrator,
            caller=lambda: principal().name,
            environments=service.catalogue,
            imports=settings.code_policy != pb.CODE_POLICY_REGISTERED,
            breakers=lambda: breakers(self.pools),
        )
        pb_grpc.add_TasksServicer_to_server(tasks, listeners.server)
        models = ModelsService(lambda: self.models, caller=lambda: principal().name)
        pb_grpc.add_ModelsServicer_to_server(models, listeners.server)
        pb_grpc.add_RunnersServicer_to_server(RunnersService(self._orchestrator), listeners.server)
        listeners.server.add_generic_rpc_handlers((self.health.handlers(),))
        relay = Relay(lambda shard_id, owner: self.sessions.shard(shard_id, owner).worker.address)
        listeners.server.add_generic_rpc_handlers((relay.handler(),))
        try:
            await listeners.start(settings.listen)
        except BaseException:
            await listeners.stop(grace=None)
            raise
        return listeners


@asynccontextmanager
async def private_folder() -> AsyncIterator[Path]:
    """A new folder for this user alone, short enough for sockets in it; removed at the end."""
    # Not $XDG_RUNTIME_DIR, which goes away when its user logs out.
    candidates = [tempfile.gettempdir(), "/tmp"]
    for parent in candidates:
        room = MAX_SOCKET_PATH_BYTES - _SOCKET_NAME_BYTES - len("/megaflow-xxxxxxxx")
        if len(parent.encode()) <= room and os.access(parent, os.W_OK | os.X_OK):
            break
    else:
        raise InvalidArgument(
            f"no folder for sockets: {candidates} are too long for a socket's path or not writable; "
            "set TMPDIR to a short one"
        )
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    try:
        yield folder
    finally:
        remove_tree(folder)
