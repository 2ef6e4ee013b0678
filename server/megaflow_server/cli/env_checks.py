"""What `megaflow envs check` looks at: one environment behind a server, over the SDK."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.utils.passive_env_checker import env_render_passive_checker

from megaflow.env import RemoteEnv
from megaflow.errors import Unavailable
from megaflow.protocol import values
from megaflow.protocol.spaces import decode_space, encode_space
from megaflow_server.cli.errors import explain
from megaflow_server.cli.report import Finding

# Steps of the rollout and of each instance that determinism is judged by.
_STEPS = 100
# Samples of each space that make the round trip.
_SAMPLES = 20
_SEED = 123

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def checks(env_id: str, server: str | None, env_kwargs: Mapping[str, Any]) -> Iterator[Finding]:
    """A finding for each check, as they are made.

    Raises what opening the first session raises.
    """
    make = partial(RemoteEnv, env_id, server, env_kwargs=env_kwargs)
    start = time.perf_counter()
    with closing(make()) as env:
        yield Finding("open", "ok", f"a session opened in {time.perf_counter() - start:.2f} s")
        yield _attempt("gymnasium", lambda: _gymnasium(env))
        yield _attempt("round trip", lambda: _round_trip(env))
        yield _attempt("rollout", lambda: _rollout(env))
        yield _attempt("determinism", lambda: _determinism(env, make))
        for mode in env.metadata.get("render_modes") or ():
            yield _attempt(f"render {mode}", partial(_render, mode, make))


def _attempt(name: str, check: Callable[[], tuple[str, list[str]]]) -> Finding:
    """A check's detail and remarks as a finding; failed where it raises."""
    try:
        detail, remarks = check()
    except Unavailable:
        raise  # it is the server that fails, and every later check with it
    except Exception as error:  # whatever an environment may raise is what is being looked for
        return Finding(name, "failed", explain(error) or f"{type(error).__name__}: {error}")
    if remarks:
        return Finding(name, "warning", "\n".join([detail, *remarks]))
    return Finding(name, "ok", detail)


def _gymnasium(env: RemoteEnv) -> tuple[str, list[str]]:
    # Rendering has checks of its own, since what it needs may be missing.
    with _recorded() as remarks:
        check_env(env, skip_render_check=True)
    return "passes gymnasium's check_env", remarks


def _round_trip(env: RemoteEnv) -> tuple[str, list[str]]:
    for name, space in _spaces(env):
        if decode_space(encode_space(space)) != space:
            raise AssertionError(f"{name} {space} is not the same after a journey over the wire")
        space.seed(_SEED)
        for _ in range(_SAMPLES):
            sample = space.sample()
            back = values.decode(values.encode(sample))
            if not data_equivalence(sample, back, exact=True) or back not in space:
                raise AssertionError(f"{name}: {sample!r} came back over the wire as {back!r}")
    return f"both spaces and {2 * _SAMPLES} samples come back unchanged", []


def _spaces(env: RemoteEnv) -> list[tuple[str, gym.Space[Any]]]:
    return [("observation_space", env.observation_space), ("action_space", env.action_space)]


def _rollout(env: RemoteEnv) -> tuple[str, list[str]]:
    env.action_space.seed(_SEED)
    observation, _ = env.reset(seed=_SEED)
    episodes, start = 0, time.perf_counter()
    for step in range(1, _STEPS + 1):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        if observation not in env.observation_space:
            raise AssertionError(f"step {step}: {observation!r} is not in {env.observation_space}")
        if np.isnan(float(reward)):
            raise AssertionError(f"step {step}: the reward is nan")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                raise AssertionError(f"step {step}: {name} is {flag!r}, which is no bool")
        if not isinstance(info, dict):
            raise AssertionError(f"step {step}: info is {info!r}, which is no dict")
        if terminated or truncated:
            episodes += 1
            env.reset()
    rate = _STEPS / (time.perf_counter() - start)
    return f"{_STEPS} steps, {episodes} episodes ended, {rate:,.0f} steps/s", []


def _determinism(env: RemoteEnv, make: Callable[[], RemoteEnv]) -> tuple[str, list[str]]:
    if env.remote_spec is not None and env.remote_spec.nondeterministic:
        return "not looked at: it is registered as nondeterministic", []
    with closing(make()) as first, closing(make()) as second:
        for number, (one, other) in enumerate(zip(_history(first), _history(second), strict=True)):
            if not data_equivalence(one, other, exact=True):
                raise AssertionError(
                    f"two instances with seed {_SEED} and the same actions differ, first after step "
                    f"{number}: {one!r} and {other!r}"
                )
    return f"two instances with one seed agree for {_STEPS} steps", []


def _history(env: RemoteEnv) -> Iterator[tuple[Any, ...]]:
    """What a reset and every step of a seeded run give."""
    env.action_space.seed(_SEED)
    yield env.reset(seed=_SEED)
    for _ in range(_STEPS):
        transition = env.step(env.action_space.sample())
        yield transition
        if transition[2] or transition[3]:
            env.reset()


def _render(mode: str, make: Callable[..., RemoteEnv]) -> tuple[str, list[str]]:
    try:
        with closing(make(render_mode=mode)) as env, _recorded() as remarks:
            env.reset(seed=_SEED)
            env.step(env.action_space.sample())
            env_render_passive_checker(env)
    except gym.error.DependencyNotInstalled as error:
        return "not looked at", [f"{error}: install it where the server's workers run"]
    return "draws", remarks


@contextmanager
def _recorded() -> Iterator[list[str]]:
    """The texts of the warnings that gymnasium gives meanwhile, each once; filled in at the end."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += dict.fromkeys(_COLOURS.sub("", str(warning.message)) for warning in caught)
