"""Agents and models by name: registered in this process, or by entry points of what is installed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from megaflow.agent import Agent
from megaflow.errors import InvalidArgument, NotFound
from megaflow.model import Model

__all__ = [
    "AGENTS",
    "MODELS",
    "agent_names",
    "check_agent",
    "make_agent",
    "make_model",
    "model_names",
    "model_not_found",
    "register_agent",
    "register_model",
]

AGENTS, MODELS = "megaflow.agents", "megaflow.models"

_registered: dict[str, dict[str, Callable[..., Any]]] = {AGENTS: {}, MODELS: {}}


def register_agent(name: str, make: Callable[..., Agent]) -> None:
    """Have tasks name an agent so, in this process.

    Args:
        make: a class or a function; gets a task's `agent_kwargs`.

    Raises:
        InvalidArgument: another has this name already.
    """
    _register(AGENTS, name, make)


def register_model(name: str, make: Callable[[], Model]) -> None:
    """Have tasks name a model so, in this process; each attempt gets one of its own. Raises as `register_agent`."""
    _register(MODELS, name, make)


def agent_names() -> list[str]:
    """The agents that there are."""
    return _names(AGENTS)


def model_names() -> list[str]:
    """The models that there are."""
    return _names(MODELS)


def make_agent(name: str, kwargs: Mapping[str, Any], *, imports: bool = False) -> Agent:
    """An agent of this name.

    Args:
        imports: whether `name` may also be `module:Class`, which imports code.

    Raises:
        NotFound: there is none; says which come close.
        InvalidArgument: what was found is no agent, or does not take these arguments.
    """
    made: Agent = _make(AGENTS, name, kwargs, Agent, imports=imports)
    return made


def check_agent(name: str) -> None:
    """Raises NotFound for a name that neither imports code nor is known in this process."""
    if ":" not in name and name not in _names(AGENTS):
        raise _not_found(AGENTS, name, ())


def make_model(name: str, *, imports: bool = False, others: Collection[str] = ()) -> Model:
    """A model of this name. Raises as `make_agent`.

    Args:
        others: names that whoever asks has besides; an error counts them among those that there are.
    """
    made: Model = _make(MODELS, name, {}, Model, imports=imports, others=others)
    return made


def model_not_found(name: str, others: Collection[str] = ()) -> NotFound:
    """What somebody is told who names a model that there is not: what comes close, and what there is."""
    return _not_found(MODELS, name, others)


def _register(group: str, name: str, make: Callable[..., Any]) -> None:
    if not name or ":" in name or not callable(make):
        raise InvalidArgument(
            f"{_kind(group)} {name!r}: give a name without ':', and a class or a function that makes one"
        )
    known = _registered[group].get(name)
    if known is not None and known is not make:
        raise InvalidArgument(f"{_kind(group)} {name!r} is registered already: choose another name")
    _registered[group][name] = make


def _kind(group: str) -> str:
    return "agent" if group == AGENTS else "model"


def _names(group: str) -> list[str]:
    return sorted({*_registered[group], *(point.name for point in entry_points(group=group))})


def _make(
    group: str,
    name: str,
    kwargs: Mapping[str, Any],
    wanted: type[Any],
    *,
    imports: bool,
    others: Collection[str] = (),
) -> Any:
    field = f"{_kind(group)}={name!r}"
    maker = _found(group, name, field, imports=imports, others=others)
    try:
        made = maker(**kwargs)
    except (TypeError, ValueError, InvalidArgument) as error:
        raise InvalidArgument(f"{field}: cannot be made of {dict(kwargs)!r}: {error}") from error
    if not isinstance(made, wanted):
        raise InvalidArgument(
            f"{field}: gives {type(made).__name__}, which is no megaflow.{wanted.__name__}"
        )
    return made


def _found(
    group: str, name: str, field: str, *, imports: bool, others: Collection[str]
) -> Callable[..., Any]:
    if name in _registered[group]:
        return _registered[group][name]
    for point in entry_points(group=group, name=name):
        maker: Callable[..., Any] = point.load()
        return maker
    if ":" in name:
        if not imports:
            raise NotFound(f"{field}: a name that imports code is taken with --allow-import alone")
        return _imported(name, field)
    raise _not_found(group, name, others)


def _not_found(group: str, name: str, others: Collection[str]) -> NotFound:
    names = sorted({*_names(group), *others})
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? T" if close else "t"
    return NotFound(
        f"{_kind(group)}={name!r} is not registered; {hint}here are {', '.join(names) or 'none'}"
    )


def _imported(name: str, field: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise NotFound(f"{field}: {error}") from error
    if not callable(found):
        raise InvalidArgument(f"{field}: a {type(found).__name__}, and no class or function")
    made: Callable[..., Any] = found
    return made
