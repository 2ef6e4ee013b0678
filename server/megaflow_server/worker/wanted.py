"""Which sandboxes the constructor of an environment takes, and what these must be like."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from gymnasium.envs.registration import EnvSpec, load_env_creator

from megaflow.errors import InvalidArgument
from megaflow.sandbox_request import SandboxRequest

__all__ = ["wanted_by"]

_PARAMETER = "sandbox"
# What gymnasium.make keeps for itself.
_MAKES_OWN = ("max_episode_steps", "disable_env_checker")
# Whether a class takes one: thousands of environments of one vector ask.
_KNOWN: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def wanted_by(
    target: EnvSpec | Callable[..., Any], kwargs: Callable[[], Mapping[str, Any]]
) -> Mapping[str, SandboxRequest]:
    """The sandboxes that are to be given to a constructor besides its arguments, by its parameters.

    Args:
        kwargs: gives the arguments, where somebody looks at them.

    Raises what its `sandboxes` does, and InvalidArgument where that gives no requests.
    """
    creator: Any = target
    if isinstance(target, EnvSpec):
        entry = target.entry_point
        if entry is None:
            return {}
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
    bound: dict[str, Any] = {}
    positional: tuple[Any, ...] = ()
    while isinstance(creator, functools.partial):
        bound = {**creator.keywords, **bound}
        positional = (*creator.args, *positional)
        creator = creator.func
    if _PARAMETER in bound or not _takes_sandbox(creator):
        return {}
    given = dict(kwargs())
    if isinstance(target, EnvSpec):
        given = {**target.kwargs, **{k: v for k, v in given.items() if k not in _MAKES_OWN}}
    given = {**bound, **given}
    if _PARAMETER in given:
        return {}
    ask = getattr(creator, "sandboxes", None)
    if ask is None:
        return {_PARAMETER: SandboxRequest()}
    requests = ask(*positional, **given)
    for name, one in requests.items():
        if not isinstance(one, SandboxRequest):
            raise InvalidArgument(
                f"{creator!r}.sandboxes gave {one!r} for {name!r}: give a megaflow.sandbox_request.SandboxRequest"
            )
    return {name: one for name, one in requests.items() if name not in given}


def _takes_sandbox(creator: Any) -> bool:
    if not isinstance(creator, type):
        return _has_parameter(creator)
    known = _KNOWN.get(creator)
    if known is None:
        known = _KNOWN[creator] = _has_parameter(creator)
    return known


def _has_parameter(creator: Any) -> bool:
    try:
        return _PARAMETER in inspect.signature(creator).parameters
    except (TypeError, ValueError):  # a builtin without one
        return False
