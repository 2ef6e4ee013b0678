"""The server behind `megaflow serve`: put together from its configuration, until a signal ends it.

The one place where a gateway and workers may meet in a process: the fake backend's workers run in the
server's own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from megaflow.errors import InvalidArgument, Unavailable
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server import model_hosting
from megaflow_server.backends import Backend, get_backend, get_builds
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.config import Config, ServerConfig
from megaflow_server.gateway.limits import Quota
from megaflow_server.gateway.listeners import Access
from megaflow_server.gateway.served import ENVIRONMENTS
from megaflow_server.gateway.server import Gateway, private_folder
from megaflow_server.gateway.session_settings import SessionSettings
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.health import Serving
from megaflow_server.janitor import Janitor
from megaflow_server.linux import give_way
from megaflow_server.models.catalogue import check
from megaflow_server.models.service import ModelService
from megaflow_server.orchestrator.commands import SetTenant
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.requested import PROFILES
from megaflow_server.runner.supervisor import Runners
from megaflow_server.runs import state_folder

# In the private folder of a server that has runners.
_RUNNERS_SOCKET = "runners.sock"

Announce = Callable[[Sequence[str], str, Sequence[str]], None]


def main(config: Config, announce: Announce, path: Path | None = None) -> None:
    """Serves until SIGINT, or until SIGTERM and the end of its sessions; nothing of it is left when this returns.

    SIGHUP has the token file read again; where there is none, it ends the server.

    Args:
        announce: gets the addresses, the URL of health and metrics or "", and what there is to know of
            each backend, once every worker serves.
        path: of the configuration's file, which its runners read their models from.

    Raises:
        MegaflowError: it cannot start: an address, a backend, or a module that workers cannot import.
    """
    _access(config.server).check(config.server.listen)
    # What goes wrong before it serves is raised; it need not be in the log as well.
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(levelname)s %(message)s")
    # But for what may take minutes before it serves.
    logging.getLogger("megaflow_server.backends.docker.pulling").setLevel(logging.INFO)
    # What the gateway does is never as urgent as a step in a worker on the same cores;
    # where the system does not let it, it is only less polite.
    with suppress(OSError):
        give_way()
    with Janitor() as janitor:
        asyncio.run(_main(config, announce, path and path.absolute(), janitor))


async def _main(config: Config, announce: Announce, path: Path | None, janitor: Janitor) -> None:
    signals = Signals()
    backends = _Backends(config)
    backend = backends(config.server.backend)
    async with private_folder() as folder:
        janitor.take([folder])
        async with AsyncExitStack() as stack:
            orchestrator = await _orchestrator(config, stack)
            gateway = await stack.enter_async_context(
                Gateway(_settings(config, folder, backends), backend, orchestrator)
            )
            janitor.take(gateway.sockets)
            janitor.take(gateway.token_files, folders=True)
            if config.server.token_file is not None:
                signals.on_hangup(gateway.reload)
            models = await model_hosting.model_service(config, gateway.holders, stack)
            gateway.models = models
            http = await _http(config, gateway, orchestrator, models, stack)
            own = f"unix:{folder / _RUNNERS_SOCKET}"
            addresses = [address for address in gateway.addresses if address != own]
            await _serve(
                gateway,
                await _runners(config, own, path),
                signals,
                lambda: announce(
                    addresses, http, [*backends.abouts(), *model_hosting.about(config)]
                ),
                config.server.drain_grace,
            )


def shown(store: str) -> str:
    """A store's URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", store)


async def _http(
    config: Config,
    gateway: Gateway,
    orchestrator: Orchestrator | None,
    models: ModelService | None,
    stack: AsyncExitStack,
) -> str:
    """Where health, metrics and models are served until the stack ends; "" where the configuration says nowhere."""
    if config.server.http is None:
        return ""
    try:  # no part of the base install
        from megaflow_server.observability.http import HttpPort
    except ImportError as error:
        raise InvalidArgument(
            f"http={config.server.http!r} needs {error.name}: pip install 'megaflow[server]'"
        ) from error
    port = HttpPort(
        config.server.http,
        _access(config.server),
        principal=gateway.principal,
        ready=lambda: gateway.health.status is Serving.SERVING,
        orchestrator=orchestrator,
        models=models,
    )
    return (await stack.enter_async_context(port)).address


async def _orchestrator(config: Config, stack: AsyncExitStack) -> Orchestrator | None:
    """What keeps tasks, running until the stack ends; None where the configuration names no store."""
    if config.server.store is None:
        return None
    try:  # no part of the base install
        from megaflow_server.orchestrator.starts import Starts
        from megaflow_server.orchestrator.store.opening import open_store
    except ImportError as error:
        raise InvalidArgument(
            f"store={shown(config.server.store)!r} needs {error.name}: pip install 'megaflow[server]'"
        ) from error
    try:
        store = await asyncio.to_thread(open_store, config.server.store)
    except Unavailable as error:
        raise Unavailable(f"store={shown(config.server.store)!r}: {error.message}") from error
    stack.push_async_callback(asyncio.to_thread, store.close)
    tenants = [
        SetTenant(name, tenant.weight, tenant.quota.running)
        for name, tenant in config.tenants.items()
    ]
    starts = Starts(config.server.max_building)
    return await stack.enter_async_context(Orchestrator(store, tenants=tenants, starts=starts))


async def _runners(config: Config, address: str, path: Path | None) -> Runners:
    """Its own, which come to it at an address of theirs, whatever tokens others need."""
    server = config.server
    count = server.runners
    if count is None:
        count = 0 if server.store is None else 1
    if count and server.store is None:
        raise InvalidArgument(f"runners={count}: there are tasks to execute with a store alone")
    arguments = ["--server", address, "--concurrency", str(server.concurrency)]
    arguments += ["--step-timeout", str(server.step_timeout)]
    arguments += ["--trajectories", server.trajectories or _trajectories(server.store or "")]
    if path is not None:
        arguments += ["--config", str(path)]
    if count:
        try:
            await check(config.models)
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error.message}") from error
    for module in server.modules:
        arguments += ["--import", module]
    if server.allow_import:
        arguments.append("--allow-import")
    return Runners(count, arguments, server.drain_grace)


def _trajectories(store: str) -> str:
    path = store.removeprefix("sqlite:///")
    folder = Path(path).absolute().parent if path != store else state_folder()
    return str(folder / "trajectories")


async def _serve(
    gateway: Gateway,
    runners: Runners,
    signals: Signals,
    announce: Callable[[], None],
    drain_grace: float,
) -> None:
    ready = asyncio.ensure_future(gateway.ready())
    stopped = asyncio.ensure_future(signals.leaving.wait())
    await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        await stopped
        return signals.ignore()
    await ready
    async with runners:
        logging.getLogger("megaflow_server").setLevel(logging.INFO)
        announce()
        await stopped
        if not signals.ended.is_set():
            # What its runners have ends first, and is told.
            draining = asyncio.ensure_future(runners.drain())
            await asyncio.wait(
                {draining, asyncio.ensure_future(signals.ended.wait())},
                return_when=asyncio.FIRST_COMPLETED,
            )
    if not signals.ended.is_set():
        await gateway.drain(grace=drain_grace, hurry=signals.ended)
    return signals.ignore()


class Signals:
    """What a server is told by signals: to leave when its sessions have ended, or to end now.

    SIGTERM asks for the first, SIGINT for the second, and so does whatever comes after the first.
    """

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._numbers = [signal.SIGINT, signal.SIGTERM]
        self._loop.add_signal_handler(signal.SIGINT, self._end)
        self._loop.add_signal_handler(signal.SIGTERM, self._leave)
        # A terminal that is closed sends SIGHUP, which nohup has ignored.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self.on_hangup(self._end)

    def on_hangup(self, call: Callable[[], None]) -> None:
        """Does this at SIGHUP, instead of ending."""
        if signal.SIGHUP not in self._numbers:
            self._numbers.append(signal.SIGHUP)
        self._loop.add_signal_handler(signal.SIGHUP, call)

    def ignore(self) -> None:
        """Takes none any more, past the loop's own end, where an impatient Ctrl-C would be a traceback."""
        for number in self._numbers:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _leave(self) -> None:
        if self.leaving.is_set():
            self._end()
        self.leaving.set()

    def _end(self) -> None:
        self.ended.set()
        self.leaving.set()
        self.ignore()


class _Backends:
    """Makes backends by their names, as the configuration has them."""

    def __init__(self, config: Config) -> None:
        self._options = {"docker": config.docker.options()}
        # Processes are what runs anyway, and worth a line only where somebody else's code runs in them.
        self._quiet = "process" not in {one.backend for one in config.templates.values()}
        self._made: list[Backend] = []

    def __call__(self, name: str) -> Backend:
        made = self._make(name)
        self._made.append(made)
        return made

    def abouts(self) -> list[str]:
        """What there is to know of those that were made."""
        quiet = ("fake", "process") if self._quiet else ("fake",)
        return [one.about for one in self._made if one.name not in quiet]

    def _make(self, name: str) -> Backend:
        if name == FakeBackend.name:
            from megaflow_server.worker.in_process import run  # and with it gymnasium

            return FakeBackend(run)
        return get_backend(name, self._options.get(name))


def _access(config: ServerConfig) -> Access:
    return Access.of(config.token_file, config.tls_cert, config.tls_key, config.insecure)


def _sessions(config: Config) -> SessionSettings:
    server = config.server
    return SessionSettings(
        lease=server.lease,
        max_sessions=server.max_sessions,
        max_building=server.max_building,
        max_waiting=server.max_waiting,
        quotas={
            name: Quota(tenant.quota.sessions, tenant.quota.sessions_per_minute)
            for name, tenant in config.tenants.items()
        },
    )


def _settings(config: Config, folder: Path, backends: _Backends) -> GatewaySettings:
    server = config.server
    hosting = ENVIRONMENTS in server.served
    return GatewaySettings(
        folder=folder,
        listen=[*server.listen, *([f"unix:{folder / _RUNNERS_SOCKET}"] if server.store else [])],
        access=_access(server),
        data_host=server.data_host,
        workers=server.workers if hosting else 0,
        max_workers=(server.max_workers or 4 * server.workers) if hosting else 0,
        max_sessions_per_worker=server.max_sessions_per_worker,
        worker_memory_limit=server.worker_memory_limit,
        heartbeat_timeout=server.heartbeat_timeout or server.lease,
        log_bytes=server.log_bytes,
        sessions=_sessions(config),
        templates=config.made_templates() if hosting else {},
        most=config.sandboxes.most(PROFILES),
        open_backend=backends,
        open_builds=partial(get_builds, config.docker.options()) if config.docker.build else None,
        worker_image=server.worker_image,
        withheld=model_hosting.withheld(config),
        warm_workers=server.workers if hosting else 0,
        served=server.served,
        modules=server.modules,
        code_policy=(pb.CODE_POLICY_IMPORT if server.allow_import else pb.CODE_POLICY_REGISTERED),
    )
