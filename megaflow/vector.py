"""RemoteVectorEnv: a vector environment behind a server, with gymnasium's contract to the letter."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from gymnasium import logger
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from megaflow.batches import ShardedBatch
from megaflow.connection import Connection, connect
from megaflow.contract import ObservationMode, seeds_of, take_mask
from megaflow.env import name_of
from megaflow.errors import InvalidArgument
from megaflow.native_batch import NativeBatch
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.registration import remote_spec
from megaflow.session import Session
from megaflow.specs import EnvironmentLike, WrapperLike, environment_spec, kwargs_of
from megaflow.transport.stream import ReplyTimeout
from megaflow.vector_options import OnLost, VectorOptions

# What AsyncVectorEnv refuses to call: it would change a sub-environment behind the vector's back.
_NOT_CALLED = ("reset", "step", "close")


class RemoteVectorEnv(VectorEnv[Any, Any, Any]):
    """Sub-environments behind a server, sharded over its workers.

    Everything that `gymnasium.vector.AsyncVectorEnv` has, with its exceptions and messages: autoreset modes,
    reset masks, `reset_async` … `call_wait`, `call`, `get_attr`, `set_attr`, `render`. Observations, rewards
    (float64), flags (bool) and infos are new arrays, the caller's own.

    Args:
        env_id: what each sub-environment is, or a list with one entry for each.
        num_envs: how many; may be left out with a list.
        server: a gRPC target, "inline", or None for `$MEGAFLOW_SERVER` or an embedded server.
        env_kwargs, per_env_kwargs: arguments of all, and of each, laid over them; further keyword arguments
            count as env_kwargs.
        env_wrappers: applied to each sub-environment, innermost first. (This and env_vectorization_mode are
            `megaflow.make_vec`'s wrappers and vectorization_mode, names that `gymnasium.make_vec` keeps for
            itself.)
        autoreset_mode: gymnasium's; None is NEXT_STEP, or the native vector class's own.
        observation_mode: gymnasium's "same", "different" or (batched space, single space).
        env_vectorization_mode: "sync" makes sub-environments one by one, as SyncVectorEnv does;
            "vector_entry_point" takes the environment's own vector class, unsharded.
        on_lost: what a step does when the worker of some sub-environments died. "raise": SessionLost, whose
            `indices` say which; a reset (masked or not) makes them anew. "truncate": truncated=True,
            `lost_reward`, and True in `infos["lost"]`: drop that transition, and go on.
        lost_reward: the reward of such a transition.
    """

    metadata: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def __init__(
        self,
        env_id: EnvironmentLike | Sequence[EnvironmentLike],
        num_envs: int | None = None,
        server: str | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        per_env_kwargs: Sequence[Mapping[str, Any]] | None = None,
        env_wrappers: Sequence[WrapperLike] = (),
        autoreset_mode: AutoresetMode | str | None = None,
        observation_mode: ObservationMode = "same",
        env_vectorization_mode: str = "sync",
        on_lost: OnLost = "raise",
        lost_reward: float = 0.0,
        render_mode: str | None = None,
        connection: Connection | None = None,
        **kwargs: Any,
    ) -> None:
        self._session: Session | None = None
        self._connection = connection
        options = VectorOptions.checked(
            env_id=env_id,
            num_envs=num_envs,
            env_kwargs=kwargs_of(env_kwargs, "env_kwargs") | kwargs,
            per_env_kwargs=per_env_kwargs,
            wrappers=env_wrappers,
            autoreset_mode=autoreset_mode,
            observation_mode=observation_mode,
            vectorization_mode=env_vectorization_mode,
            on_lost=on_lost,
            lost_reward=lost_reward,
            render_mode=render_mode,
        )
        self._options = options
        self.num_envs = options.num_envs
        self._state = AsyncState.DEFAULT
        self._connection = connection or connect(server)
        try:
            self._session = Session(self._connection, self._environment_spec())
            self._describe([shard.info.environment for shard in self._session.shards])
        except BaseException:
            self._discard()
            raise
        self.spec = self._own_spec()

    def _environment_spec(self) -> pb.EnvironmentSpec:
        options = self._options
        assert self._connection is not None
        every = dict(options.env_kwargs)
        if options.render_mode is not None:
            every["render_mode"] = options.render_mode
        return environment_spec(
            self._connection,
            options.env_id,
            num_envs=options.num_envs,
            env_kwargs=every,
            per_env_kwargs=options.per_env_kwargs,
            wrappers=options.wrappers,
            vectorization_mode=options.vectorization_mode,
            autoreset=options.sync_autoreset_mode,
            observation_mode=options.observation_mode,
        )

    def _describe(self, descriptions: Sequence[pb.EnvironmentDescription]) -> None:
        first, options = descriptions[0], self._options
        layout = options.layout(descriptions)
        self.single_observation_space = layout.single_observation_space
        self.single_action_space = layout.single_action_space
        self.observation_space = layout.observation_space
        self.action_space = layout.action_space
        self.autoreset_mode = layout.autoreset_mode
        metadata = values.decode(first.metadata, path="metadata")
        self.metadata = {**metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.render_mode = first.render_mode if first.HasField("render_mode") else None
        self.remote_spec = EnvSpec.from_json(first.env_spec) if first.env_spec else None
        assert self._session is not None
        batch = NativeBatch if options.native else ShardedBatch
        self._batch = batch(self._session, layout, options)

    def _own_spec(self) -> EnvSpec:
        assert self._connection is not None
        spec = remote_spec(
            self._options.as_kwargs(),
            self._connection.address,
            remote=self.remote_spec,
        )
        spec.kwargs["num_envs"] = self.num_envs
        return spec

    # ------------------------------------------------------------------ reset and step

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        self.reset_async(seed=seed, options=options)
        return self.reset_wait()

    def reset_async(
        self,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Starts a reset; as AsyncVectorEnv's, also in what it raises."""
        self._assert_is_running()
        if self._options.native:
            self._refuse_native_seeds(seed)
        seeds = seeds_of(seed, self.num_envs)
        self._assert_idle("reset_async", "")
        mask = take_mask(options, self.num_envs)
        self._batch.start_reset(seed if self._options.native else seeds, options, mask)
        self._state = AsyncState.WAITING_RESET

    def _refuse_native_seeds(self, seed: object) -> None:
        if seed is not None and not isinstance(seed, int):
            raise InvalidArgument(
                f"seed={seed!r}: a native vector class (vectorization_mode='vector_entry_point') takes one "
                "seed for the whole; 'sync' takes a list"
            )

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """The reset's observations and infos. Raises multiprocessing.TimeoutError after so many seconds."""
        self._assert_waiting(AsyncState.WAITING_RESET)
        with self._finishing("reset_wait", timeout):
            return self._batch.finish_reset(timeout)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Starts a step; as AsyncVectorEnv's, also in what it raises."""
        self._assert_is_running()
        self._assert_idle("step_async")
        self._batch.start_step(actions)
        self._state = AsyncState.WAITING_STEP

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """The step's results. Raises multiprocessing.TimeoutError after so many seconds."""
        self._assert_waiting(AsyncState.WAITING_STEP)
        with self._finishing("step_wait", timeout):
            return self._batch.finish_step(timeout)

    # ------------------------------------------------------------------ calls

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method of each sub-environment; an attribute's value where it is none."""
        self.call_async(name, *args, **kwargs)
        return self.call_wait()

    def call_async(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Starts a call of a method of each sub-environment."""
        self._assert_is_running()
        self._assert_idle("call_async")
        if name in _NOT_CALLED:
            raise ValueError(
                f"Trying to call function `{name}` with `call`, use `{name}` directly instead."
            )
        verb = pb.Call(name=name)
        if args:
            verb.args = values.encode(args, path="args")
        if kwargs:
            verb.kwargs = values.encode(kwargs, path="kwargs")
        self._batch.start_call(verb)
        self._state = AsyncState.WAITING_CALL

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """The call's results, one for each sub-environment."""
        self._assert_waiting(AsyncState.WAITING_CALL)
        with self._finishing("call_wait", timeout):
            return cast("tuple[Any, ...]", self._batch.finish_call(timeout))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each sub-environment."""
        return self.call(name)

    def set_attr(self, name: str, values: list[Any] | tuple[Any, ...] | Any) -> None:
        """Sets an attribute of each sub-environment: a list or tuple has one value for each."""
        self._assert_is_running()
        if not isinstance(values, list | tuple):
            values = [values for _ in range(self.num_envs)]
        if len(values) != self.num_envs:
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(values)}` values for {self.num_envs} environments."
            )
        self._assert_idle("set_attr")
        self._batch.set_attr(name, list(values))

    def render(self) -> Any:
        return self.call("render")

    @property  # type: ignore[misc]  # gymnasium's own Sync- and AsyncVectorEnv cannot be written to, either
    def np_random(self) -> Any:
        """Copies of the sub-environments' generators, in their present state."""
        return self._lookup("np_random")

    @property
    def np_random_seed(self) -> Any:
        """The sub-environments' seeds."""
        return self._lookup("np_random_seed")

    def _lookup(self, name: str) -> Any:
        self._assert_is_running()
        self._assert_idle("call_async")
        return self._batch.lookup(name)

    # ------------------------------------------------------------------ state and end

    def _assert_is_running(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(
                f"Trying to operate on `{type(self).__name__}`, after a call to `close()`."
            )

    def _assert_idle(self, call: str, end: str = ".") -> None:
        if self._state != AsyncState.DEFAULT:
            raise AlreadyPendingCallError(
                f"Calling `{call}` while waiting for a pending call to `{self._state.value}` to "
                f"complete{end}",
                str(self._state.value),
            )

    def _assert_waiting(self, state: AsyncState) -> None:
        self._assert_is_running()
        if self._state != state:
            raise NoAsyncCallError(
                f"Calling `{state.value}_wait` without any prior call to `{state.value}_async`.",
                state.value,
            )

    @contextmanager
    def _finishing(self, call: str, timeout: float | None) -> Iterator[None]:
        """Whatever comes of a `…_wait`, nothing is pending afterwards; a timeout becomes gymnasium's."""
        try:
            yield
        except ReplyTimeout:
            raise multiprocessing.TimeoutError(
                f"The call to `{call}` has timed out after {timeout} second(s)."
            ) from None
        finally:
            self._state = AsyncState.DEFAULT

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Closes the sub-environments and the session; `terminate` does not wait for their `close`."""
        session = self._session
        if session is None:
            return
        try:
            if self._state != AsyncState.DEFAULT and not session.inherited:
                terminate = self._finish_pending(0 if terminate else timeout) or terminate
            session.close(wait=not terminate)
        finally:
            self._discard()

    def _finish_pending(self, timeout: float | None) -> bool:
        """Waits for the pending call before closing; True where it does not finish in time."""
        logger.warn(
            f"Calling `close` while waiting for a pending call to `{self._state.value}` to complete."
        )
        try:
            getattr(self, f"{self._state.value}_wait")(timeout)
        except multiprocessing.TimeoutError:
            return True
        return False

    def _discard(self) -> None:
        self.closed = True
        session, self._session = self._session, None
        connection, self._connection = self._connection, None
        if session is not None:
            session.close(wait=False)
        if connection is not None:
            connection.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({name_of(self._options.env_id)}, num_envs={self.num_envs})"

    def __del__(self) -> None:
        if self.__dict__.get("_session") is not None:
            self._discard()
