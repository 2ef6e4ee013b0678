"""What an environment is at a moment: its own state and that of each wrapper around it, as one value."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import gymnasium as gym

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import values

__all__ = ["restore_state", "state_of"]

# What changes in gymnasium's own wrappers from one step to the next.
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Autoreset": ("autoreset",),
    "AtariPreprocessing": ("obs_buffer", "lives", "game_over"),
    "DelayObservation": ("observation_queue",),
    "FrameStackObservation": ("obs_queue", "padding_value"),
    "MaxAndSkipObservation": ("_obs_buffer",),
    "NormalizeObservation": ("obs_rms", "_update_running_mean"),
    "NormalizeReward": ("discounted_reward", "return_rms", "_update_running_mean"),
    "OrderEnforcing": ("_has_reset",),
    "PassiveEnvChecker": (
        "checked_reset",
        "checked_step",
        "checked_render",
        "checked_data_reuse",
        "_previous_data",
    ),
    "RecordEpisodeStatistics": (
        "episode_count",
        "episode_start_time",
        "episode_returns",
        "episode_lengths",
        "time_queue",
        "return_queue",
        "length_queue",
    ),
    "RenderCollection": ("frame_list",),
    "StickyAction": ("last_action", "is_sticky_actions", "num_repeats", "repeats_taken"),
    "TimeAwareObservation": ("timesteps",),
    "TimeLimit": ("_elapsed_steps",),
} | dict.fromkeys(
    (
        "AddRenderObservation",
        "AddWhiteNoise",
        "ClipAction",
        "ClipReward",
        "DiscretizeAction",
        "DiscretizeObservation",
        "DtypeObservation",
        "FilterObservation",
        "FlattenObservation",
        "GrayscaleObservation",
        "ObstructView",
        "RepeatAction",
        "RescaleAction",
        "RescaleObservation",
        "ReshapeObservation",
        "ResizeObservation",
        "TransformAction",
        "TransformObservation",
        "TransformReward",
    ),
    (),
)
# A reading of the clock of its process, which means nothing in another: it travels as how long ago that was.
_MOMENTS = frozenset({"episode_start_time"})
# Of gymnasium's running mean.
_MOMENTA = ("mean", "var", "count")
_PROTOCOL = ("get_state", "set_state")
_GENERATOR = ("_np_random", "_np_random_seed")


def state_of(env: gym.Env[Any, Any]) -> bytes:
    """The encoded state of an environment within its wrappers: what each layer is called, and what it keeps.

    Of the environment itself that is what its `get_state()` gives, and its random generator.

    Raises:
        FailedPrecondition: a layer cannot say; names its class, and what to do.
        InvalidArgument: what one gives is no value of the wire.
    """
    layers = [(_name(layer), _kept(layer)) for layer in _layers(env)]
    return values.encode(layers, path="get_state()")


def restore_state(env: gym.Env[Any, Any], state: bytes) -> None:
    """Have an environment and its wrappers go on from what `state_of` gave, here or in another process.

    Raises:
        FailedPrecondition: it is the state of other layers than these.
        InvalidArgument: it is no such state.
    """
    given = values.decode(state, path="restore.state")
    layers = _layers(env)
    try:
        names = [name for name, _ in given]
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"restore.state={given!r:.200} is no environment's state") from error
    here = [_name(layer) for layer in layers]
    if names != here:
        raise FailedPrecondition(
            f"the snapshot is of {' in '.join(map(str, names))}, and this is {' in '.join(here)}: "
            "make the environment as the one was that the snapshot is of"
        )
    for layer in layers:  # before anything is changed
        _check(layer)
    for layer, (_, kept) in zip(layers, given, strict=True):
        _keep(layer, kept)


def _layers(env: gym.Env[Any, Any]) -> list[gym.Env[Any, Any]]:
    """The environment and its wrappers, innermost first."""
    layers = [env]
    while isinstance(env, gym.Wrapper):
        env = env.env
        layers.append(env)
    return layers[::-1]


def _name(layer: gym.Env[Any, Any]) -> str:
    return f"{type(layer).__module__}:{type(layer).__qualname__}"


def _has_protocol(layer: gym.Env[Any, Any]) -> bool:
    return all(callable(getattr(type(layer), name, None)) for name in _PROTOCOL)


def _of_gymnasium(layer: gym.Env[Any, Any]) -> tuple[str, ...] | None:
    """The attributes of a wrapper that is gymnasium's own; None for any other layer."""
    name = type(layer).__name__
    known = getattr(gym.wrappers, name, None) is type(layer)
    return _ATTRIBUTES.get(name) if known else None


def _check(layer: gym.Env[Any, Any]) -> None:
    if _has_protocol(layer) or _of_gymnasium(layer) is not None:
        return
    what = "wrapper" if isinstance(layer, gym.Wrapper) else "environment"
    raise FailedPrecondition(
        f"no snapshot can be made of the {what} {_name(layer)}: it has no get_state() and set_state(state). Give it "
        "both (what the one returns, of values that megaflow carries, the other is called with), or leave it out"
    )


def _kept(layer: gym.Env[Any, Any]) -> Any:
    _check(layer)
    if _has_protocol(layer):
        own: Any = layer
        # Wrappers draw from the generator of what they are around.
        drawn = () if isinstance(layer, gym.Wrapper) else _GENERATOR
        generator = {name: vars(layer).get(name) for name in drawn}
        return {"state": own.get_state(), **generator}
    names = _of_gymnasium(layer) or ()
    return {name: _out(name, vars(layer)[name]) for name in names if name in vars(layer)}


def _keep(layer: gym.Env[Any, Any], kept: Any) -> None:
    if not isinstance(kept, dict):
        raise InvalidArgument(f"restore.state: {_name(layer)} has {kept!r:.200}, which is no dict")
    if _has_protocol(layer):
        own: Any = layer
        for name in _GENERATOR:
            if name in kept:
                setattr(layer, name, kept[name])
        own.set_state(kept.get("state"))
        return
    for name in _of_gymnasium(layer) or ():
        if name in kept and name in vars(layer):
            setattr(layer, name, _in(name, kept[name], vars(layer)[name]))


def _out(name: str, value: Any) -> Any:
    if name in _MOMENTS:
        return time.perf_counter() - value
    if isinstance(value, deque):
        return list(value)
    if all(hasattr(value, part) for part in _MOMENTA):
        return {part: getattr(value, part) for part in _MOMENTA}
    return value


def _in(name: str, value: Any, now: Any) -> Any:
    """What an attribute becomes, by the kind of what it is now."""
    if name in _MOMENTS:
        return time.perf_counter() - value
    if isinstance(now, deque):
        return deque(value, maxlen=now.maxlen)
    if all(hasattr(now, part) for part in _MOMENTA):
        for part in _MOMENTA:
            setattr(now, part, value[part])
        return now
    return value
