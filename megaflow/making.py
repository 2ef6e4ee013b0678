"""`megaflow.make` and `megaflow.make_vec`: gymnasium's functions, for environments behind a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from megaflow.connection import Connection, connect
from megaflow.contract import ObservationMode
from megaflow.credentials import Credentials
from megaflow.deadlines import ENV_START_TIMEOUT, OnStepTimeout
from megaflow.env import RemoteEnv
from megaflow.keeping import KEEP_FOR, Keep
from megaflow.network import BlockingNetwork
from megaflow.specs import EnvironmentLike, WrapperLike
from megaflow.transport.credentials import TlsOption
from megaflow.transport.io import run
from megaflow.vector import RemoteVectorEnv
from megaflow.vector_options import InfoMode, OnLost, Parallel

__all__ = ["make", "make_vec"]


def make(
    env_id: EnvironmentLike,
    *,
    server: str | None = None,
    token: str | None = None,
    tls: TlsOption = None,
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
) -> gym.Env[Any, Any]:
    """An environment that runs behind a server, as `gymnasium.make` gives one that runs here.

    Args:
        env_id: an id of the server, `module:Env-v0`, or `module:attribute`; for an embedded server also a
            class, a function or an EnvSpec of this script.
        server: a gRPC target (`host:port`, `unix:/path`), "inline" to run it in this process, or None for
            `$MEGAFLOW_SERVER` or an embedded server.
        env_kwargs: arguments of the environment; further keyword arguments are added to them.
        wrappers: applied where the environment runs, innermost first: `module:attribute`, WrapperSpec, or
            (embedded) a class or function.
        render_mode: the environment's; "human" is shown by this process.
        token: shown to the server; None: `$MEGAFLOW_TOKEN`, that of an open `Client` for this server, or the
            one that this user's server on this host has left. Never part of the environment's spec.
        tls: True, or a file of authorities (PEM) that may have signed the server's certificate; None: as for
            `token`, else none on this host, and the system's authorities elsewhere; False: no TLS.
        env_start_timeout, reset_timeout, step_timeout: seconds that building the environment (600), a reset
            and a step (both: as long as it takes) may take; None: as long as it takes. See `RemoteEnv`.
        on_step_timeout: what is done about a step that takes longer: "raise", "wait" or "truncate". See `RemoteEnv`.
        keep, keep_for: which of its sandboxes outlive their session, "none", "failed" or "all", and for how many
            seconds (3600). See `RemoteEnv`.

    Returns:
        A `RemoteEnv`, within gymnasium's HumanRendering where render_mode is "human".

    Raises:
        NotFound: the server has no such environment; says which come close.
        Unavailable: no server answers; says how to start one.
        Unauthenticated, PermissionDenied: the token is unknown, or opens something else.
    """
    human = render_mode == "human"
    env: gym.Env[Any, Any] = RemoteEnv(
        env_id,
        server,
        env_kwargs=env_kwargs,
        wrappers=wrappers,
        render_mode="rgb_array" if human else render_mode,
        env_start_timeout=env_start_timeout,
        reset_timeout=reset_timeout,
        step_timeout=step_timeout,
        on_step_timeout=on_step_timeout,
        keep=keep,
        keep_for=keep_for,
        connection=_dialled(server, token, tls),
        **kwargs,
    )
    return gym.wrappers.HumanRendering(env) if human else env


def make_vec(
    env_id: EnvironmentLike | Sequence[EnvironmentLike],
    num_envs: int | None = None,
    *,
    server: str | None = None,
    token: str | None = None,
    tls: TlsOption = None,
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
) -> VectorEnv[Any, Any, Any]:
    """A vector environment that runs behind a server, sharded over its workers.

    `RemoteVectorEnv` says what each argument does; `env_id`, `server`, `token`, `tls`, `env_kwargs` and
    `wrappers` are as in `make`.

    Returns:
        A `RemoteVectorEnv`, within gymnasium's vector HumanRendering where render_mode is "human".
    """
    human = render_mode == "human"
    envs: VectorEnv[Any, Any, Any] = RemoteVectorEnv(
        env_id,
        num_envs,
        server,
        env_kwargs=env_kwargs,
        per_env_kwargs=per_env_kwargs,
        env_wrappers=wrappers,
        autoreset_mode=autoreset_mode,
        observation_mode=observation_mode,
        env_vectorization_mode=vectorization_mode,
        on_lost=on_lost,
        lost_reward=lost_reward,
        render_mode="rgb_array" if human else render_mode,
        env_start_timeout=env_start_timeout,
        reset_timeout=reset_timeout,
        step_timeout=step_timeout,
        on_step_timeout=on_step_timeout,
        parallel=parallel,
        info_mode=info_mode,
        connection=_dialled(server, token, tls),
        **kwargs,
    )
    return gym.wrappers.vector.HumanRendering(envs) if human else envs


def _dialled(server: str | None, token: str | None, tls: TlsOption) -> Callable[[], Connection]:
    """How an environment connects, so that neither its arguments nor its spec have the token."""
    return lambda: run(connect(BlockingNetwork(), server, Credentials(token, tls)))
