"""RemoteEnv: one environment that runs behind a server, with gymnasium's `Env` for a face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from megaflow.connection import Connection, connect
from megaflow.deadlines import ENV_START_TIMEOUT, OnStepTimeout
from megaflow.env_core import EnvCore
from megaflow.forking import forked
from megaflow.keeping import KEEP_FOR, Keep, kept_seconds
from megaflow.network import BlockingNetwork
from megaflow.specs import EnvironmentLike, WrapperLike, refuse_secrets
from megaflow.transport.io import run

# Attributes of this object itself; others are the remote environment's.
_KEPT_HERE = frozenset(
    {
        "action_space",
        "metadata",
        "np_random",
        "observation_space",
        "remote_spec",
        "render_mode",
        "spec",
    }
)


class RemoteEnv(gym.Env[Any, Any]):
    """An environment behind a server; observations, rewards, flags and infos are what it gives locally.

    Time limits, order enforcing and checks are applied where the environment runs. Attributes and methods of
    the remote environment that `gymnasium.Env` does not have are reached through this object; what they
    take and give must be values that the wire carries.

    Args:
        env_start_timeout: seconds in which the environment has to be built, also when it is made anew.
        reset_timeout, step_timeout: seconds that a reset, and a step, may take; None: as long as it takes.
            Where one passes, the environment is still at it: it can be used again once that has ended, and
            the next call waits for it.
        on_step_timeout: what is done about a step that takes longer. "raise": DeadlineExceeded. "wait": it is
            waited for, and a warning says so, once. "truncate": the last observation, reward 0.0, truncated=True,
            and True in info["lost"] and info["step_timeout"]; the next reset makes the environment anew.
        keep: which sandboxes of it outlive its session, so that somebody can look at them with `megaflow shell`:
            "none", "all", or those whose last episode "failed": it raised or was lost, its outcome is not valid, or
            it ended with rewards that come to 0 or less.
        keep_for: for how many seconds.

    Raises (any method):
        SessionLost: the worker died. The next `reset` makes the environment anew.
        DeadlineExceeded: a deadline passed; the message begins with its name.
        EnvironmentFailed, or the environment's own builtin or gymnasium exception.
    """

    # What gymnasium.make may ask for before there is an environment: human rendering is done on this side,
    # by gymnasium's wrapper over rgb_array.
    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array", "rgb_array_list", "ansi", "ansi_list"]
    }

    def __init__(
        self,
        env_id: EnvironmentLike,
        server: str | None = None,
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
        connection: Callable[[], Connection] | None = None,
        **kwargs: Any,
    ) -> None:
        self._core: EnvCore | None = None
        self._env_id = env_id
        refuse_secrets(kwargs)
        opened = connection() if connection else run(connect(BlockingNetwork(), server))
        self._use(
            run(
                EnvCore.open(
                    type(self).__name__,
                    opened,
                    env_id=env_id,
                    env_kwargs=env_kwargs,
                    kwargs=kwargs,
                    wrappers=wrappers,
                    render_mode=render_mode,
                    deadlines=(env_start_timeout, reset_timeout, step_timeout, on_step_timeout),
                    keep=(keep, keep_for),
                )
            )
        )

    def _use(self, core: EnvCore) -> None:
        found = core.description
        self.observation_space, self.action_space = found.observation_space, found.action_space
        self.metadata = found.metadata  # type: ignore[misc]
        self.render_mode = found.render_mode
        self.remote_spec: EnvSpec | None = found.remote_spec
        self.spec = core.spec
        self._core = core

    @property
    def _live(self) -> EnvCore:
        assert self._core is not None
        return self._core

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        # gymnasium's checks look at a generator on this side; it also refuses a bad seed before it travels.
        super().reset(seed=seed)
        return run(self._live.reset(seed, options))

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        return run(self._live.step(action))

    def render(self) -> Any:
        return self.call("render")

    def snapshot(self, *, keep_for: float = KEEP_FOR) -> str:
        """Keeps on the server what the environment is at the moment, with its wrappers and its sandbox's files.

        `reset(options={"snapshot": id})` goes on from there, of this environment or of one made alike by the
        same principal: the same actions give the same observations. It returns the observation of that moment
        and the info {"snapshot": id}.

        Args:
            keep_for: seconds after which it goes by itself, counted from when it was used last; a day at most.

        Raises:
            FailedPrecondition: the environment or a wrapper has no `get_state()` and `set_state(state)`, or its
                sandbox keeps no snapshots.
            ResetNeeded: before the first reset.
            ResourceExhausted: there are too many; see `Client.drop_snapshot`.
        """
        return run(self._live.snapshot(kept_seconds("keep_for", keep_for)))

    @property
    def session_id(self) -> str:
        """Of its session, for `megaflow shell`. Raises ClosedEnvironmentError after `close`."""
        return self._live.session.id

    def keep_sandbox(self, seconds: float = KEEP_FOR, *, lost_only: bool = False) -> None:
        """Have the sandbox outlive the session by so many seconds, a day at most; see `keep`.

        What runs in it ends with the session. Of a principal's, the server keeps the last 16, and gives up the oldest
        where it needs its room for others. Said again, it takes the place of what was said before.

        Args:
            lost_only: only where it is lost: its worker died, or its client went away.
        """
        run(self._live.keep_sandbox(seconds, lost_only=lost_only))

    def _fork(self, count: int) -> list[RemoteEnv]:
        envs = []
        for core in run(forked(self._live, count)):
            env = RemoteEnv.__new__(type(self))
            env._core, env._env_id = None, self._env_id
            env._use(core)
            envs.append(env)
        return envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the remote environment or of its wrappers; an attribute's value where it is none."""
        return run(self._live.call(name, args, kwargs))

    def close(self) -> None:
        if self._core is not None:
            run(self._core.close())

    @property
    def np_random(self) -> np.random.Generator:
        """A copy of the remote environment's generator, in its present state."""
        return cast("np.random.Generator", self.call("np_random"))

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self._np_random = value
        self.set_wrapper_attr("np_random", value)

    @property
    def np_random_seed(self) -> int:
        return cast("int", self.call("np_random_seed"))

    def get_wrapper_attr(self, name: str) -> Any:
        """An attribute of this object, else of the remote environment; a remote method can be called."""
        return getattr(self, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets an attribute of the remote environment, as its outermost wrapper does."""
        return cast("bool", run(self._live.set_attr(name, value, force=force)))

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets what gymnasium keeps of an environment here, and everything else on the remote environment."""
        core: EnvCore | None = self.__dict__.get("_core")
        if name.startswith("_") or name in _KEPT_HERE or core is None or core.closed:
            super().__setattr__(name, value)
        else:
            self.set_wrapper_attr(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self.__dict__.get("_core") is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        is_method, value = run(self._live.lookup(name))
        return _RemoteMethod(self, name) if is_method else value

    def __str__(self) -> str:
        return f"<{type(self).__name__}<{name_of(self._env_id)}>>"

    def __del__(self) -> None:
        core = self.__dict__.get("_core")
        if core is not None:
            core.forget()


class _RemoteMethod:
    """A method of the remote environment, bound."""

    def __init__(self, env: RemoteEnv, name: str) -> None:
        self._env = env
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._env.call(self.__name__, *args, **kwargs)


def name_of(env: EnvironmentLike | Sequence[EnvironmentLike]) -> str:
    """How an environment is called in a repr."""
    if isinstance(env, str):
        return env
    if isinstance(env, EnvSpec):
        return env.id
    if isinstance(env, Sequence):
        return ", ".join(dict.fromkeys(name_of(one) for one in env))
    return getattr(env, "__qualname__", repr(env))
