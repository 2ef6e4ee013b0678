"""How remote environments get into gymnasium's registry."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

REMOTE_ID = "megaflow/Remote-v0"
ENTRY_POINT = "megaflow.env:RemoteEnv"
VECTOR_ENTRY_POINT = "megaflow.vector:RemoteVectorEnv"

# What megaflow ships; imported where it is made, as gymnasium does with entry points.
SHIPPED = {
    "megaflow/Terminal-v0": "megaflow_envs.terminal:TerminalEnv",
    "megaflow/SWE-v0": "megaflow_envs.swe:SWEEnv",
}


def register_remote() -> None:
    """Registers `megaflow/Remote-v0`, for `gym.make` and `gym.make_vec`; again does nothing."""
    if REMOTE_ID not in gym.registry:
        register(REMOTE_ID, {})


def register_shipped() -> None:
    """Registers the environments that megaflow ships; again does nothing."""
    for env_id, entry_point in SHIPPED.items():
        if env_id not in gym.registry:
            # Commands take their time, and an outcome without a reward is nan: no checker is to warn of it.
            gym.register(
                env_id, entry_point=entry_point, nondeterministic=True, disable_env_checker=True
            )


def register(
    env_id: str,
    kwargs: dict[str, Any],
    *,
    reward_threshold: float | None = None,
    nondeterministic: bool = False,
) -> None:
    """Registers an id whose environments are remote ones made with these arguments."""
    gym.register(
        env_id,
        entry_point=ENTRY_POINT,
        vector_entry_point=VECTOR_ENTRY_POINT,
        reward_threshold=reward_threshold,
        nondeterministic=nondeterministic,
        # All of these are applied where the environment runs.
        max_episode_steps=None,
        order_enforce=False,
        disable_env_checker=True,
        kwargs=kwargs,
    )


def remote_spec(kwargs: dict[str, Any], server: str | None, *, remote: EnvSpec | None) -> EnvSpec:
    """The spec from which `gymnasium.make` (or `make_vec`) makes the same environment at the same server.

    `remote` is the environment's own, as its server has it.
    """
    if server is not None:
        kwargs = {**kwargs, "server": server}
    return EnvSpec(
        id=REMOTE_ID,
        entry_point=ENTRY_POINT,
        vector_entry_point=VECTOR_ENTRY_POINT,
        reward_threshold=remote.reward_threshold if remote else None,
        nondeterministic=remote.nondeterministic if remote else False,
        order_enforce=False,
        disable_env_checker=True,
        kwargs=kwargs,
    )
