"""AsyncRemoteEnv: one environment that runs behind a server, awaited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, SupportsFloat, cast

from gymnasium.error import AlreadyPendingCallError
from gymnasium.utils import seeding

from megaflow.env import name_of
from megaflow.env_core import EnvCore
from megaflow.forking import forked
from megaflow.keeping import KEEP_FOR, kept_seconds
from megaflow.specs import EnvironmentLike


class AsyncRemoteEnv:
    """An environment behind a server; `megaflow.AsyncClient.make` gives it.

    What is awaited gives what `RemoteEnv`'s methods of the same names return, and raises the same errors. One
    call at a time: a second one raises gymnasium's AlreadyPendingCallError. A call that is cancelled has still
    been made, unless it waited for the end of one before it; its result is dropped, and the next call waits for
    its end.

    Attributes:
        observation_space, action_space, metadata, render_mode, spec: as gymnasium has them; `gymnasium.make`
            takes the spec.
        remote_spec: the environment's own spec, as its server has it.
    """

    def __init__(self, core: EnvCore, env_id: EnvironmentLike) -> None:
        self._core = core
        self._env_id = env_id
        self._pending: str | None = None
        found = core.description
        self.observation_space = found.observation_space
        self.action_space = found.action_space
        self.metadata = found.metadata
        self.render_mode = found.render_mode
        self.remote_spec = found.remote_spec
        self.spec = core.spec

    @property
    def session_id(self) -> str:
        """Of its session, for `megaflow shell`. Raises ClosedEnvironmentError after `close`."""
        return self._core.session.id

    @contextmanager
    def _alone(self, call: str) -> Iterator[None]:
        if self._pending is not None:
            raise AlreadyPendingCallError(
                f"Calling `{call}` while waiting for a pending call to `{self._pending}` to complete.",
                self._pending,
            )
        self._pending = call
        try:
            yield
        finally:
            self._pending = None

    async def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            seeding.np_random(seed)  # refuses a bad seed before it travels, as `RemoteEnv` does
        with self._alone("reset"):
            return await self._core.reset(seed, options)

    async def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        with self._alone("step"):
            return await self._core.step(action)

    async def snapshot(self, *, keep_for: float = KEEP_FOR) -> str:
        """See `RemoteEnv.snapshot`."""
        with self._alone("snapshot"):
            return await self._core.snapshot(kept_seconds("keep_for", keep_for))

    async def keep_sandbox(self, seconds: float = KEEP_FOR, *, lost_only: bool = False) -> None:
        """See `RemoteEnv.keep_sandbox`."""
        await self._core.keep_sandbox(seconds, lost_only=lost_only)

    async def _fork(self, count: int) -> list[AsyncRemoteEnv]:
        with self._alone("fork"):
            cores = await forked(self._core, count)
        return [AsyncRemoteEnv(core, self._env_id) for core in cores]

    async def render(self) -> Any:
        return await self.call("render")

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the remote environment or of its wrappers; an attribute's value where it is none."""
        with self._alone("call"):
            return await self._core.call(name, args, kwargs)

    async def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets an attribute of the remote environment, as its outermost wrapper does."""
        with self._alone("set_wrapper_attr"):
            return cast("bool", await self._core.set_attr(name, value, force=force))

    async def close(self) -> None:
        """Closes the environment; without waiting for it, and for a pending call, where there is one."""
        await self._core.close(wait=self._pending is None)

    async def __aenter__(self) -> AsyncRemoteEnv:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}<{name_of(self._env_id)}>>"

    def __del__(self) -> None:
        if "_core" in self.__dict__:
            self._core.forget()
