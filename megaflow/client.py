"""The client: a server's catalogue, and environments made behind it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack

import gymnasium as gym
from gymnasium.vector import VectorEnv

from megaflow.catalogue import EnvironmentInfo, register_catalogue
from megaflow.connection import Connection, connect
from megaflow.credentials import Credentials
from megaflow.env import RemoteEnv
from megaflow.errors import FailedPrecondition
from megaflow.forking import no_fork
from megaflow.inside import SandboxInfo, Terminal, beginning, result_of, running
from megaflow.job import Job
from megaflow.job_calls import JobCalls, Places, cancel_task, explain_task, jobs, submit
from megaflow.making import make, make_vec
from megaflow.network import BlockingNetwork
from megaflow.pools import PoolInfo, preparing, preparing_env
from megaflow.remote_model import ModelInfo, RemoteModel
from megaflow.rollouts import RolloutOptions, Rollouts, rollout_calls
from megaflow.sandbox import OUTPUT_LIMIT, ExecResult
from megaflow.specs import EnvironmentLike, WrapperLike
from megaflow.task import JobStatus, Task, TaskStatus
from megaflow.transport.credentials import TlsOption
from megaflow.transport.io import run


class Client:
    """A connection to a server; close it, or use it as a context manager.

    Environments made with it keep working after it is closed: each holds the connection by itself.

    Args:
        server: a gRPC target (`host:port`, `unix:/path`), "inline", or None for `$MEGAFLOW_SERVER` or an
            embedded server of this process.
        token, tls: as in `megaflow.make`. While the client is open, they serve whoever names the same
            server and gives none, `gymnasium.make` too.

    Raises:
        Unavailable: nothing answers there, within 5 s.
    """

    def __init__(
        self, server: str | None = None, *, token: str | None = None, tls: TlsOption = None
    ) -> None:
        self._server = server
        self._credentials = Credentials(token, tls)
        self._connection: Connection | None = None
        self._connect()

    def _connect(self) -> Connection:
        self._pid = os.getpid()
        connection = run(connect(BlockingNetwork(), self._server, self._credentials))
        self._connection = connection
        connection.lend()
        return connection

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise FailedPrecondition("this client is closed")
        if self._pid != os.getpid():
            return self._connect()  # a fork has connections of its own
        return self._connection

    def envs(self) -> list[EnvironmentInfo]:
        """The environments that the server has registered, by id."""
        return [EnvironmentInfo.of(info) for info in run(self._open.environments())]

    def models(self) -> list[ModelInfo]:
        """The server's models, by name. FailedPrecondition where it has none."""
        return ModelInfo.all_of(run(self._open.models()))

    def model(self, name: str, *, timeout: float | None = None) -> RemoteModel:
        """One of the server's models; whether it is there, its first call says.

        Args:
            name: of the server's configuration, as `models` tells it.
            timeout: seconds that a call of it may take; None: as long as the server lets it.
        """
        return RemoteModel(name, self._opened, timeout)

    def pools(self) -> list[PoolInfo]:
        """The server's pools of sandboxes, by template and image."""
        return PoolInfo.all_of(run(self._open.pools()))

    def prepare(self, template: str, count: int, *, image: str | None = None) -> PoolInfo:
        """Have so many sandboxes of a template made ready, for sessions that will be opened soon.

        Returns once its image is at hand and their creation has begun; those that nobody has asked for within
        10 minutes go again. It takes the place of what was said before; 0 takes that back.

        Args:
            template: a name of the server's configuration.
            image: where the template names none.

        Returns:
            The template's pool: how many are ready, and how many are on their way.

        Raises:
            NotFound: the server has no such template, or there is no such image.
            FailedPrecondition: the template cannot be used on this server.
        """
        request = preparing(template, count, image)
        return PoolInfo.of(run(self._open.prepare_pool(request)))

    def prepare_env(
        self,
        env_id: EnvironmentLike,
        count: int,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[WrapperLike] = (),
    ) -> list[PoolInfo]:
        """Have the sandboxes made ready of so many sessions of an environment that will be opened soon.

        It asks the environment what it will want with these arguments, and is otherwise as `prepare`.

        Returns:
            The pools that they come from.

        Raises:
            FailedPrecondition: it wants no sandbox.
        """
        connection = self._open
        request = preparing_env(connection, env_id, count, env_kwargs, wrappers)
        return PoolInfo.all_of(run(connection.prepare_environment(request)))

    def make(
        self,
        env_id: EnvironmentLike,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[WrapperLike] = (),
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> gym.Env[Any, Any]:
        """One environment on this server; see `megaflow.make`."""
        return make(
            env_id,
            server=self._address,
            env_kwargs=env_kwargs,
            wrappers=wrappers,
            render_mode=render_mode,
            **self._credentials.as_kwargs(),
            **kwargs,
        )

    def make_vec(
        self,
        env_id: EnvironmentLike | Sequence[EnvironmentLike],
        num_envs: int | None = None,
        **options: Any,
    ) -> VectorEnv[Any, Any, Any]:
        """A vector environment on this server; takes what `megaflow.make_vec` takes of options."""
        credentials = self._credentials.as_kwargs()
        return make_vec(env_id, num_envs, server=self._address, **credentials, **options)

    def fork(self, env: gym.Env[Any, Any], n: int) -> list[RemoteEnv]:
        """So many environments that go on from where `env` is, each in a session of its own.

        They need no reset: the next step is one of the same episode. With the same actions they give the same
        observations as `env`, which goes on by itself.

        Args:
            env: of this server; where it is wrapped on this side, the new ones are not.

        Raises:
            InvalidArgument: it is none of this server's, or of this client's kind.
            FailedPrecondition: no snapshot can be made of it; see `RemoteEnv.snapshot`.
        """
        remote = env.unwrapped
        if not isinstance(remote, RemoteEnv) or remote._live.address != self._address:
            raise no_fork(env)
        return remote._fork(n)

    def drop_snapshot(self, snapshot: str) -> None:
        """Has a snapshot kept no longer; one that is not there is fine."""
        run(self._open.drop_snapshot(snapshot))

    def sandboxes(self) -> list[SandboxInfo]:
        """The sandboxes that may be looked into: those of this principal's sessions, tasks and snapshots.

        Those that outlived their sessions are among them; see `keep` of `megaflow.RemoteEnv`.
        Everybody's for a token with the scope admin.
        """
        return SandboxInfo.all_of(run(self._open.sandboxes()))

    def drop_sandboxes(self, id: str) -> None:
        """Let go of what outlived a session, by its id or its task's; none that are there is fine."""
        run(self._open.drop_sandboxes(id))

    def run_inside(
        self,
        id: str,
        command: str,
        *,
        sandbox: str = "",
        user: str = "",
        cwd: str = "",
        timeout: float | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        """Run a command in the sandbox of a session, or in one that is made of a snapshot for it.

        A sandbox that was looked into is not used again after its session.

        Args:
            id: of the session, of the task that it is for, or of the snapshot.
            sandbox: which of them, where there are several: see `sandboxes`.
            user, cwd, timeout, output_limit: as in `Sandbox.exec`; without a user, whom its phase has.

        Raises:
            NotFound, PermissionDenied, SessionLost: there is no such session or snapshot of this principal's.
            FailedPrecondition: its environment has no sandbox.
            InvalidArgument: it has several.
        """
        asked = running(id, command, sandbox, user, cwd, timeout, output_limit)
        return result_of(run(self._open.run_inside(asked)))

    def terminal(
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
    ) -> Terminal:
        """A terminal in such a sandbox, and a shell or a command at it; else as `run_inside`.

        What runs at a terminal that is closed gets SIGHUP.

        Args:
            term: what $TERM is there.
        """
        asked = beginning(id, command, rows, columns, term, sandbox, user, cwd)
        return Terminal(self._open, asked)

    def register_envs(self, namespace: str = "remote") -> list[str]:
        """Registers every environment of this server with gymnasium, as `namespace/id`.

        A "/" within an id becomes "-", since gymnasium has one namespace. `gymnasium.make` and `make_vec` then
        make them on this server.

        Returns:
            The new ids.

        Raises:
            InvalidArgument: an id is taken by something else; nothing is registered then.
        """
        return register_catalogue(self.envs(), namespace, self._address)

    def submit(
        self,
        tasks: Iterable[Task],
        *,
        samples: int = 1,
        name: str = "",
        seed: int | None = None,
        deadline: float | None = None,
        only: Places | None = None,
        manifest: Callable[[str], bytes] | None = None,
        max_cost: float | None = None,
        unpriced: bool = False,
    ) -> Job:
        """Submit tasks as one job; once this returns, the job survives whatever ends.

        Tasks are taken from an iterable as fast as the server stores them, tens of thousands in one call, and may
        start before the last is there.

        Args:
            samples: how often each is executed, apart; a million tasks at most, samples included.
            name: what `Client.job` takes besides its id; the newest of a name is found.
            seed: every task's follows from it; None: a new one, told by `Job.status`.
            deadline: seconds from now by which all of it has ended; None: no limit.
            only: these samples alone, as (index of the task, sample), with the seeds that they have among all;
                None: all.
            manifest: gives what `Job.manifest` is to give, for the job's id; it is kept before the first task is.
            max_cost: USD; once calls of models have cost so much, no more attempts begin, and the calls of those
                that run are refused; None: no limit.
            unpriced: whether models without a price may be called though `max_cost` is set.

        Raises:
            InvalidArgument, NotFound: names the task and the field; the job is cancelled then.
            FailedPrecondition: the server keeps no tasks, or an idempotency key was used for another task.
        """
        return Job(
            run(
                submit(
                    self._opened,
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
            )
        )

    def rollouts(self, tasks: Iterable[Task], **options: Unpack[RolloutOptions]) -> Rollouts:
        """Groups of rollouts for a trainer, each as soon as it is done.

        A group is `group_size` samples of one task that have a reward. Tasks are taken from the iterable, which
        may be endless, as groups are taken from this; a trainer that is busy is not run ahead of.

        Args:
            options: see `megaflow.rollouts.RolloutOptions`.

        Raises:
            InvalidArgument: names the option.
        """
        return Rollouts(rollout_calls(self._opened, tasks, options))

    def job(self, job: str) -> Job:
        """A job of this tenant by its id, or the newest of a name. Raises NotFound."""
        return Job(run(JobCalls.find(self._opened, job)))

    def jobs(self) -> list[JobStatus]:
        """This tenant's jobs, the newest first; a hundred at most."""
        return run(jobs(self._opened))

    def why(self, task_id: str) -> TaskStatus:
        """Where a task is, what it waits for, and how it came there. Raises NotFound."""
        return run(explain_task(self._opened, task_id))

    def cancel_task(self, task_id: str, reason: str = "") -> TaskStatus:
        """Cancel one task; one that has ended stays as it is. Raises NotFound."""
        return run(cancel_task(self._opened, task_id, reason))

    async def _opened(self) -> Connection:
        return self._open

    @property
    def _address(self) -> str | None:
        return self._open.address

    def close(self) -> None:
        """Gives the connection back. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            connection.take_back()
            run(connection.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
