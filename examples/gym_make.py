"""Remote environments through gymnasium's own functions, for code that takes nothing but an id.

    python examples/gym_make.py

uses a server of its own, started when it is needed. One that runs already, started by `megaflow serve` here
or elsewhere, is named by the variable MEGAFLOW_SERVER:

    MEGAFLOW_SERVER=localhost:7447 python examples/gym_make.py
"""

from __future__ import annotations

import gymnasium as gym
from gymnasium.wrappers import RecordEpisodeStatistics

import megaflow  # registers megaflow/Remote-v0


def main() -> None:
    # One environment. What follows env_id goes to the environment's constructor, where it runs.
    env = gym.make("megaflow/Remote-v0", env_id="CartPole-v1", sutton_barto_reward=True)
    env = RecordEpisodeStatistics(env)
    env.action_space.seed(1)
    env.reset(seed=1)
    over = False
    while not over:
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        over = terminated or truncated
    print(f"{env}: an episode of {info['episode']['l']} steps")
    env.close()

    # A vector environment.
    envs = gym.make_vec("megaflow/Remote-v0", num_envs=4, env_id="CartPole-v1")
    observations, _ = envs.reset(seed=1)
    print(f"{envs}: observations of shape {observations.shape}")
    envs.close()

    # Everything that the server has, under a namespace of its own.
    with megaflow.Client() as client:
        ids = client.register_envs(namespace="remote")
    print(f"{len(ids)} environments, among them {[name for name in ids if 'Lake' in name]}")
    env = gym.make("remote/FrozenLake-v1", is_slippery=False)
    print(f"FrozenLake starts at {env.reset(seed=1)[0]}")
    env.close()


if __name__ == "__main__":
    main()
