"""The client for asyncio: a server's catalogue, and environments made behind it, awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Unpack

from gymnasium.vector import AutoresetMode

from megaflow.aio_network import AioNetwork
from megaflow.async_env import AsyncRemoteEnv
from megaflow.async_job import AsyncJob
from megaflow.async_vector import AsyncRemoteVectorEnv
from megaflow.catalogue import EnvironmentInfo, register_catalogue
from megaflow.connection import Connection, connect
from megaflow.contract import ObservationMode
from megaflow.credentials import Credentials
from megaflow.deadlines import ENV_START_TIMEOUT, OnStepTimeout
from megaflow.env_core import EnvCore
from megaflow.errors import FailedPrecondition
from megaflow.forking import no_fork
from megaflow.forwarding import Connect, Forward, put_inside
from megaflow.inside import AsyncTerminal, SandboxInfo, beginning, result_of, running
from megaflow.job_calls import JobCalls, Places, Tasks, cancel_task, explain_task, jobs, submit
from megaflow.keeping import KEEP_FOR, Keep
from megaflow.pools import PoolInfo, preparing, preparing_env
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.remote_model import AsyncRemoteModel, ModelInfo
from megaflow.rollouts import AsyncRollouts, RolloutOptions, rollout_calls
from megaflow.sandbox import OUTPUT_LIMIT, ExecResult
from megaflow.specs import EnvironmentLike, WrapperLike
from megaflow.task import JobStatus, Task, TaskStatus
from megaflow.transport.credentials import TlsOption
from megaflow.vector_core import VectorCore
from megaflow.vector_options import InfoMode, OnLost, Parallel, VectorOptions


class AsyncClient:
    """A connection to a server for one event loop; close it, or use it as an asynchronous context manager.

    It connects with the first call, or when its context is entered. Environments made with it keep working
    after it is closed: each holds the connection by itself, and all share it.

    Args:
        server, token, tls: as in `megaflow.Client`. With "inline", environments run on the event loop itself.

    Raises (any method):
        Unavailable: nothing answers there, within 5 s.
    """

    def __init__(
        self, server: str | None = None, *, token: str | None = None, tls: TlsOption = None
    ) -> None:
        self._server = server
        self._credentials = Credentials(token, tls)
        self._pid = os.getpid()
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self._closed = False

    async def _open(self) -> Connection:
        if self._pid != os.getpid():
            raise FailedPrecondition(
                "this client belongs to the process that this one is a fork of: make one here"
            )
        async with self._connecting:
            if self._closed:
                raise FailedPrecondition("this client is closed")
            if self._connection is None:
                connection = await connect(AioNetwork(), self._server, self._credentials)
                connection.lend()
                self._connection = connection
            return self._connection

    async def envs(self) -> list[EnvironmentInfo]:
        """The environments that the server has registered, by id."""
        connection = await self._open()
        return [EnvironmentInfo.of(info) for info in await connection.environments()]

    async def register_envs(self, namespace: str = "remote") -> list[str]:
        """Registers every environment of this server with gymnasium; see `megaflow.Client.register_envs`."""
        return register_catalogue(await self.envs(), namespace, (await self._open()).address)

    async def models(self) -> list[ModelInfo]:
        """The server's models, by name; see `megaflow.Client.models`."""
        return ModelInfo.all_of(await (await self._open()).models())

    def model(self, name: str, *, timeout: float | None = None) -> AsyncRemoteModel:
        """One of the server's models, as a `megaflow.Model`; see `megaflow.Client.model`."""
        return AsyncRemoteModel(name, self._open, timeout)

    async def pools(self) -> list[PoolInfo]:
        """The server's pools of sandboxes, by template and image."""
        return PoolInfo.all_of(await (await self._open()).pools())

    async def prepare(self, template: str, count: int, *, image: str | None = None) -> PoolInfo:
        """Have so many sandboxes of a template made ready; see `megaflow.Client.prepare`."""
        request = preparing(template, count, image)
        return PoolInfo.of(await (await self._open()).prepare_pool(request))

    async def prepare_env(
        self,
        env_id: EnvironmentLike,
        count: int,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[WrapperLike] = (),
    ) -> list[PoolInfo]:
        """Have the sandboxes of so many sessions made ready; see `megaflow.Client.prepare_env`."""
        connection = await self._open()
        request = preparing_env(connection, env_id, count, env_kwargs, wrappers)
        return PoolInfo.all_of(await connection.prepare_environment(request))

    async def make(
        self,
        env_id: EnvironmentLike,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[WrapperLike] = (),
        render_mode: str | None = None,
        env_start_timeout: float | None = ENV_START_TIMEOUT,
        reset_timeout: float | None = None,
        step_timeout: float | None = None,
        on_step_timeout: OnStepTimeout = "raise",
        keep: Keep = "none",
        keep_for: float = KEEP_FOR,
        **kwargs: Any,
    ) -> AsyncRemoteEnv:
        """One environment on this server; takes and raises what `megaflow.make` does, but for "human"."""
        connection = (await self._open()).share()
        core = await EnvCore.open(
            AsyncRemoteEnv.__name__,
            connection,
            env_id=env_id,
            env_kwargs=env_kwargs,
            kwargs=kwargs,
            wrappers=wrappers,
            render_mode=render_mode,
            deadlines=(env_start_timeout, reset_timeout, step_timeout, on_step_timeout),
            keep=(keep, keep_for),
        )
        return AsyncRemoteEnv(core, env_id)

    async def fork(self, env: AsyncRemoteEnv, n: int) -> list[AsyncRemoteEnv]:
        """So many environments that go on from where `env` is; see `megaflow.Client.fork`."""
        address = (await self._open()).address
        if not isinstance(env, AsyncRemoteEnv) or env._core.address != address:
            raise no_fork(env)
        return await env._fork(n)

    async def drop_snapshot(self, snapshot: str) -> None:
        """Has a snapshot kept no longer; one that is not there is fine."""
        await (await self._open()).drop_snapshot(snapshot)

    async def sandboxes(self) -> list[SandboxInfo]:
        """The sandboxes that may be looked into; see `megaflow.Client.sandboxes`."""
        return SandboxInfo.all_of(await (await self._open()).sandboxes())

    async def drop_sandboxes(self, id: str) -> None:
        """Let go of what was kept of a session or task; see `megaflow.Client.drop_sandboxes`."""
        await (await self._open()).drop_sandboxes(id)

    async def run_inside(
        self,
        id: str,
        command: str,
        *,
        sandbox: str = "",
        user: str = "",
        cwd: str = "",
        timeout: float | None = None,
        output_limit: int = OUTPUT_LIMIT,
        env: Mapping[str, str] | None = None,
    ) -> ExecResult:
        """Run a command in the sandbox of a session or snapshot; see `megaflow.Client.run_inside`."""
        asked = running(id, command, sandbox, user, cwd, timeout, output_limit, env)
        return result_of(await (await self._open()).run_inside(asked))

    async def put_inside(self, id: str, tar: IO[bytes], *, sandbox: str = "") -> None:
        """Unpack a tar archive at the root of such a sandbox, whatever its user.

        Raises:
            FailedPrecondition: it takes none, or what is in the archive is there already.
        """
        await put_inside(await self._open(), pb.Inside(id=id, sandbox=sandbox), tar)

    async def forward(
        self, id: str, connect: Connect, *, port: int = 0, sandbox: str = ""
    ) -> Forward:
        """A port at the loopback of the sandbox of a session that runs, which leads to this process.

        Nothing runs in the sandbox for that, which may have no network at all.

        Args:
            connect: called for each connection that something in the sandbox makes; gives what it leads to, as
                `asyncio.open_connection` does.
            port: 0 for any that is free.

        Raises:
            FailedPrecondition: something listens there, or the server cannot enter the network of its sandboxes.
        """
        return await Forward.open(
            await self._open(), pb.Inside(id=id, sandbox=sandbox), port, connect
        )

    async def terminal(
        self,
        id: str,
        command: str = "",
        *,
        rows: int = 24,
        columns: int = 80,
        term: str = "xterm",
        sandbox: str = "",
        user: str = "",
        cwd: str = "",
    ) -> AsyncTerminal:
        """A terminal in such a sandbox; see `megaflow.Client.terminal`."""
        asked = beginning(id, command, rows, columns, term, sandbox, user, cwd)
        return await AsyncTerminal.open(await self._open(), asked)

    async def make_vec(
        self,
        env_id: EnvironmentLike | Sequence[EnvironmentLike],
        num_envs: int | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        per_env_kwargs: Sequence[Mapping[str, Any]] | None = None,
        wrappers: Sequence[WrapperLike] = (),
        autoreset_mode: AutoresetMode | str | None = None,
        observation_mode: ObservationMode = "same",
        vectorization_mode: str = "sync",
        on_lost: OnLost = "raise",
        lost_reward: float = 0.0,
        render_mode: str | None = None,
        env_start_timeout: float | None = ENV_START_TIMEOUT,
        reset_timeout: float | None = None,
        step_timeout: float | None = None,
        on_step_timeout: OnStepTimeout = "raise",
        parallel: Parallel = "none",
        info_mode: InfoMode = "batched",
        **kwargs: Any,
    ) -> AsyncRemoteVectorEnv:
        """A vector environment on this server; takes and raises what `megaflow.make_vec` does, but for "human"."""
        options = VectorOptions.checked(
            env_id=env_id,
            num_envs=num_envs,
            env_kwargs=env_kwargs,
            kwargs=kwargs,
            per_env_kwargs=per_env_kwargs,
            wrappers=wrappers,
            autoreset_mode=autoreset_mode,
            observation_mode=observation_mode,
            vectorization_mode=vectorization_mode,
            on_lost=on_lost,
            lost_reward=lost_reward,
            render_mode=render_mode,
            parallel=parallel,
            info_mode=info_mode,
            deadlines=(env_start_timeout, reset_timeout, step_timeout, on_step_timeout),
        )
        connection = (await self._open()).share()
        core = await VectorCore.open(AsyncRemoteVectorEnv.__name__, connection, options)
        return AsyncRemoteVectorEnv(core, options)

    async def submit(
        self,
        tasks: Iterable[Task] | AsyncIterable[Task],
        *,
        samples: int = 1,
        name: str = "",
        seed: int | None = None,
        deadline: float | None = None,
        only: Places | None = None,
        manifest: Callable[[str], bytes] | None = None,
        max_cost: float | None = None,
        unpriced: bool = False,
    ) -> AsyncJob:
        """Submit tasks as one job; see `megaflow.Client.submit`."""
        calls = await submit(
            self._open,
            tasks,
            samples=samples,
            name=name,
            seed=seed,
            deadline=deadline,
            only=only,
            manifest=manifest,
            max_cost=max_cost,
            unpriced=unpriced,
        )
        return AsyncJob(calls)

    def rollouts(self, tasks: Tasks, **options: Unpack[RolloutOptions]) -> AsyncRollouts:
        """See `megaflow.Client.rollouts`."""
        return AsyncRollouts(rollout_calls(self._open, tasks, options))

    async def job(self, job: str) -> AsyncJob:
        """A job of this tenant by its id, or the newest of a name. Raises NotFound."""
        return AsyncJob(await JobCalls.find(self._open, job))

    async def jobs(self) -> list[JobStatus]:
        """This tenant's jobs, the newest first; a hundred at most."""
        return await jobs(self._open)

    async def why(self, task_id: str) -> TaskStatus:
        """Where a task is, what it waits for, and how it came there. Raises NotFound."""
        return await explain_task(self._open, task_id)

    async def cancel_task(self, task_id: str, reason: str = "") -> TaskStatus:
        """Cancel one task; one that has ended stays as it is. Raises NotFound."""
        return await cancel_task(self._open, task_id, reason)

    async def close(self) -> None:
        """Gives the connection back. Idempotent."""
        async with self._connecting:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            connection.take_back()
            await connection.close()

    def __del__(self) -> None:
        connection, self._connection = getattr(self, "_connection", None), None
        if connection is not None and self._pid == os.getpid():
            connection.take_back()
            connection.forget(None, None)

    async def __aenter__(self) -> AsyncClient:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
