"""One worker as its gateway sees it: an instance of the backend, and the connection to it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from megaflow.errors import DeadlineExceeded, MegaflowError, SessionLost, Unavailable
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.transport.options import SOCKET_CLIENT
from megaflow_server.backends.base import Exit, InstanceSpec
from megaflow_server.gateway import contained
from megaflow_server.gateway.liveness import Pulse
from megaflow_server.gateway.occupancy import Occupancy
from megaflow_server.gateway.worker_settings import WorkerSettings
from megaflow_server.health import SERVICE
from megaflow_server.launch import (
    BOOTSTRAP,
    DATA_PORT_KEY,
    SECRET_KEY,
    WorkerConfig,
    log_tail,
    nonce_file,
    stream_socket,
    take_refusal,
)

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Seconds until a worker answers: it imports gymnasium and what --import names.
START_TIMEOUT = 120.0


class RemoteRefusal(Exception):
    """What a worker answered instead of doing what it was asked for, to be handed on as it is."""

    def __init__(self, message: pb.Error) -> None:
        super().__init__(message.message)
        self.message = message


class WorkerHandle(Occupancy):
    """A worker from its start to its death; a replacement is another handle.

    Attributes:
        building: how many sessions, or parts of them, it is making right now.
        ready: done when the worker serves; fails with Unavailable where it never does.
        struggling: its predecessor never came up, so it may not either.
        loss: why it died, once it has.
        refusal: what it was told to do and cannot; empty where that is not why it died.
    """

    def __init__(self, slot: int, incarnation: int, settings: WorkerSettings) -> None:
        super().__init__(max_sessions=settings.max_sessions, close_grace=settings.close_grace)
        self.name = f"worker-{slot}"
        self.slot = slot
        loop = asyncio.get_running_loop()
        self.building = 0
        self.pulse = Pulse(
            interval=settings.heartbeat, timeout=settings.heartbeat_timeout, clock=loop.time
        )
        self.struggling = False
        self.loss: SessionLost | None = None
        self.refusal = ""
        self.ready: asyncio.Future[None] = loop.create_future()
        self._settings = settings
        self._secret = secrets.token_hex(16)
        self.instance_id = f"{settings.labels['run']}-{self.name}-{incarnation}"
        stem = f"{self.name}-{incarnation}"
        # A container sees the folder of its own sockets, and no more of the gateway's.
        self._own = settings.folder / stem if settings.image is not None else None
        self.socket = (self._own or settings.folder) / f"{stem}.sock"
        self.log = settings.logs / f"{self.name}-{incarnation}.log"
        self.pid: int | None = None
        self._nonce = ""
        self._data_port: int | None = None
        self._channel: grpc.aio.Channel | None = None

    @property
    def served(self) -> bool:
        """Whether the worker ever came up."""
        return self.ready.done() and self.ready.exception() is None

    @property
    def serves(self) -> bool:
        """Whether it can be asked for something: it came up, and is neither dead nor being ended."""
        return self.served and self.loss is None and not self.dismissed.done()

    @property
    def accepts(self) -> bool:
        """Whether it may be given a session."""
        return self.stays and self.loss is None

    @property
    def title(self) -> str:
        """Its name with its process, for messages."""
        return f"{self.name} ({f'process {self.pid}' if self.pid is not None else 'in-process'})"

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    @property
    def endpoint(self) -> pb.Endpoint:
        """Where clients find its data plane, once it serves."""
        endpoint = pb.Endpoint(
            unix_path=str(self.socket),
            nonce=self._nonce,
            stream_path=str(stream_socket(self.socket)),
        )
        if self._settings.data_host is not None and self._data_port is not None:
            self._settings.data_host.describe(endpoint, self._data_port, self.instance_id)
        return endpoint

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((SECRET_KEY, self._secret),)

    @property
    def stub(self) -> pb_grpc.WorkerStub:
        assert self._channel is not None, "the worker is not ready"
        return pb_grpc.WorkerStub(self._channel)

    async def call(self, make: Callable[[pb_grpc.WorkerStub], Awaitable[T]], *, deadline: str) -> T:
        """What the worker answers, once it serves; `deadline` says what did not come in time.

        Raises:
            RemoteRefusal: an error of the worker's, or of the environment that it was to make.
            SessionLost: the worker died meanwhile.
            Unavailable: it never came up.
            DeadlineExceeded: the call's own timeout passed.
        """
        await asyncio.shield(self.ready)
        if self.loss is not None:
            raise self.loss
        try:
            answer = await make(self.stub)
            self.pulse.heard()
            return answer
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error, deadline) from None
        except (asyncio.CancelledError, grpc.aio.UsageError):
            # The connection to a dead worker is closed, which cancels its calls as a caller would.
            if self.loss is None or not self._closed_under_us():
                raise
            raise self.loss from None

    async def answers(self, timeout: float) -> bool:
        """Whether the worker runs: whether it answers within so many seconds."""
        if self._channel is None or self.loss is not None:
            return False
        check: Any = self._channel.unary_unary(f"/{SERVICE}/Check")
        try:
            await check(b"", timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        except (asyncio.CancelledError, grpc.aio.UsageError):
            if not self._closed_under_us():
                raise
            return False
        return True

    def _closed_under_us(self) -> bool:
        """Whether a call was cancelled by the end of its worker's connection, and not by its caller."""
        task = asyncio.current_task()
        return self.loss is not None and not (task is not None and task.cancelling())

    async def build(self, request: pb.OpenShardRequest) -> pb.OpenShardResponse:
        """Builds a shard here, for as long as its caller waits. Raises what `call` does."""
        self.building += 1
        try:
            return await self.call(
                lambda stub: stub.OpenShard(request, metadata=self.metadata),
                deadline="env_start: no environment in time",
            )
        finally:
            self.building -= 1

    async def _explain(self, error: grpc.aio.AioRpcError, deadline: str) -> Exception:
        message = failures.message_of(error)
        if message is not None:
            self.pulse.heard()
            return RemoteRefusal(message)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"{self.name}: {deadline}")
        # The connection breaks a moment before the backend reports the death, with its reason.
        for _ in range(100):
            if self.loss is not None:
                return self.loss
            await asyncio.sleep(0.01)
        return SessionLost(f"{self.name} broke off: {error.details()}")

    def spec(self) -> InstanceSpec:
        """The instance that the backend is to start."""
        settings, data_host = self._settings, self._settings.data_host
        config = WorkerConfig(
            name=self.name,
            socket=self.socket,
            log=self.log,
            secret=self._secret,
            parent=settings.parent,
            import_paths=settings.import_paths,
            modules=settings.modules,
            code_policy=settings.code_policy,
            code_folder=settings.code_folder,
            data=data_host.listener(self.instance_id) if data_host is not None else None,
            close_grace=settings.close_grace,
        )
        if settings.image is not None:
            config = contained.config_inside(config)
        spec = InstanceSpec(
            id=self.instance_id,
            # -P: no file of the working directory is imported in place of the standard library.
            argv=(sys.executable, "-P", "-c", BOOTSTRAP),
            config=config.dump(),
            environ=settings.environ,
            directory=settings.directory,
            log=self.log,
            labels=settings.labels,
        )
        if settings.image is None or self._own is None:
            return spec
        return contained.spec_inside(spec, settings.image, self._own, settings.memory_limit)

    def make_room(self) -> None:
        """Makes what must be there before the backend starts it."""
        if self._own is not None:
            contained.make_folder(self._own)

    async def connect(self, on_closed: Callable[[str], None]) -> None:
        """Waits until the worker serves, says so through `ready`, and follows its events until it ends."""
        while not self.socket.exists():  # noqa: ASYNC110  # a file says nothing by itself
            await asyncio.sleep(0.01)
        self._nonce = nonce_file(self.socket).read_text()
        self._channel = grpc.aio.insecure_channel(self.address, options=SOCKET_CLIENT)
        request = pb.WatchRequest(heartbeat_s=self._settings.heartbeat)
        events = self.stub.Watch(request, metadata=self.metadata, wait_for_ready=True)
        # No dict(): gRPC 1.66 has keys() that its own [] does not know.
        told = {key: value for key, value in await events.initial_metadata()}  # noqa: C416
        self._data_port = int(told[DATA_PORT_KEY]) if DATA_PORT_KEY in told else None
        self.pulse.heard()
        self.ready.set_result(None)
        try:
            async for event in events:
                self.pulse.heard()
                if event.WhichOneof("event") == "closed_shard_id":
                    on_closed(event.closed_shard_id)
        except grpc.aio.AioRpcError as error:
            # The worker has ended, which the backend reports with its reason.
            logger.debug("%s: the event stream ended: %s", self.name, error.details())

    async def close(self) -> None:
        """Drops the connection and what the worker left in the folder."""
        if self._channel is not None:
            await self._channel.close()
        for path in (self.socket, nonce_file(self.socket), stream_socket(self.socket)):
            path.unlink(missing_ok=True)
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def died(self, how: Exit) -> None:
        """Takes down how the worker ended."""
        end = f"was ended: {self.ended_for}" if self.ended_for else f"ended by {how}"
        self._lost(f"{self.title} {end}")

    def failed(self, error: MegaflowError) -> None:
        """Takes down why the worker could not be started."""
        self._lost(f"{self.name} could not be started: {error.message}")

    def _lost(self, what: str) -> None:
        self.refusal = take_refusal(self.socket)
        tail = log_tail(self.log)
        if self.refusal:
            message = f"{what}, since it cannot do what this server was told to: {self.refusal}"
        else:
            message = f"{what}. The last lines of its log:\n{tail}" if tail else what
        self.loss = SessionLost(message)
        if not self.ready.done():
            self.ready.set_exception(Unavailable(f"before it served anything, {message}"))
            self.ready.exception()  # whoever waits is told; that nobody waits is no fault
