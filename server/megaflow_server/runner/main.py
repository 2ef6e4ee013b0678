"""The process of a runner: put together from its settings, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from megaflow.aio_network import AioCaller
from megaflow.async_client import AsyncClient
from megaflow.errors import MegaflowError, Unavailable
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.hello import hello_request
from megaflow.transport.address import normalise
from megaflow.transport.control import Control
from megaflow.transport.credentials import Target, resolve
from megaflow_server.linux import set_parent_death_signal
from megaflow_server.models.tables import ModelTable
from megaflow_server.runner.attempt import Tools
from megaflow_server.runner.configured import ConfiguredModels
from megaflow_server.runner.runner import Capacity, Runner
from megaflow_server.runner.spools import Spool
from megaflow_server.trajectories import TrajectoryStore

__all__ = ["RunnerSettings", "main"]

logger = logging.getLogger(__name__)

# Agents whose methods block, at once; more wait for a thread.
_THREADS = 256
# Seconds within which a server says who it is.
_HELLO = 5.0


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """What a runner is told.

    Attributes:
        server: the address of the orchestrator, which is also that of the environments.
        trajectories: a folder, or a URL that fsspec knows.
        spool: where the runners of this machine write trajectories before they are uploaded, if they are.
        modules: imported before anything is claimed; they register agents and models.
        models: what tasks may name by configuration.
        pins: where `megaflow run` keeps the tables of models; None: nowhere.
        imports: whether tasks may name agents and models as `module:Class`.
        grace: seconds that attempts get to end after SIGTERM.
        parent: the process with which this one is to end, if there is one.
    """

    server: str
    capacity: Capacity
    trajectories: str
    spool: Path
    token: str | None = None
    modules: Sequence[str] = ()
    models: Mapping[str, ModelTable] = field(default_factory=dict)
    pins: Path | None = None
    imports: bool = False
    deadlines: Mapping[str, float | None] = field(default_factory=dict)
    grace: float = 25.0
    parent: int | None = None


def main(settings: RunnerSettings) -> None:
    """Executes attempts until SIGINT, or until SIGTERM or SIGUSR1 and the end of what it has.

    Raises:
        MegaflowError: it cannot start: the server, the token, a module.
        ImportError: one of its modules.
    """
    if settings.parent is not None and sys.platform == "linux":
        set_parent_death_signal(settings.parent)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for module in settings.modules:
        import_module(module)
    asyncio.run(_main(settings))


async def _main(settings: RunnerSettings) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="megaflow-agent"))
    target = resolve(normalise(settings.server), settings.token, None)
    control = await _connected(target)
    place = _absolute(settings.trajectories)
    spool = Spool(settings.spool, place) if "://" in place else None
    store = TrajectoryStore(place, spool=None if spool is None else spool.own)
    try:
        if spool is not None:
            await _upload_left(spool, place)
        async with AsyncClient(settings.server, token=settings.token) as client:
            await _run(settings, control, target, client, store)
    finally:
        await store.close()
        if spool is not None:
            spool.close()
        await control.close()


async def _upload_left(spool: Spool, place: str) -> None:
    """Upload what runners that were killed had written; what cannot be is left to the next one."""
    for folder in tuple(spool.left):
        store = TrajectoryStore(place, spool=folder)
        try:
            failed = {name: error for name, error in (await store.recover()).items() if error}
        finally:
            await store.close()
        for name, error in failed.items():
            logger.warning("trajectory %s of a runner that was killed: %s", name, error.message)
        if not failed:
            spool.remove(folder)


async def _run(
    settings: RunnerSettings,
    control: Control,
    target: Target,
    client: AsyncClient,
    store: TrajectoryStore,
) -> None:
    server = _Server(control)
    models = ConfiguredModels(settings.models, settings.pins)
    tools = Tools(
        client=client,
        store=store,
        progress=lambda attempt, evaluating: runner.progress(attempt, evaluating),
        server_id=lambda: server.id,
        server_gone=server.gone,
        peak=server.peak,
        deadlines=settings.deadlines,
        models=models,
        imports=settings.imports,
    )
    runner = Runner(control.ask, target, settings.capacity, tools)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, runner.leave, settings.grace)
    loop.add_signal_handler(signal.SIGINT, runner.leave, 0.0)
    loop.add_signal_handler(signal.SIGUSR1, runner.leave, None)
    try:
        await runner.run()
    finally:
        await tools.gateway.close()
        await models.close()


class _Server:
    """Whether the server is still the one that it was."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._id = control.hello.server_id

    @property
    def id(self) -> str:
        return self._id

    async def peak(self, session_id: str) -> pb.Amount | None:
        """What a session used at most, as far as that was measured."""
        request = pb.CloseSessionRequest(session_id=session_id)
        answer: pb.CloseSessionResponse = await self._control.call("CloseSession", request, _HELLO)
        return answer.peak if answer.HasField("peak") else None

    async def gone(self, known: str) -> bool:
        try:
            hello: Any = await self._control.call("Hello", hello_request(), _HELLO)
        except MegaflowError:
            return True
        self._id = hello.server_id
        return self._id != known


async def _connected(target: Target) -> Control:
    """The control plane of a server that may still be on its way up."""
    for _ in range(10):
        try:
            return await Control.open(AioCaller(target), target.address)
        except Unavailable as error:
            failed = error
    raise failed


def _absolute(place: str) -> str:
    local = place.removeprefix("file://")
    return place if "://" in local else str(Path(local).absolute())
