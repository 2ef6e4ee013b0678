"""The base class of models: what one writes, and what the gateway speaks to."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Protocol, runtime_checkable

from megaflow.errors import InvalidArgument
from megaflow.generation import Assembler, Completion, Event, Request, WeightVersion

__all__ = ["Model", "Trained"]


class Model(ABC):
    """Answers requests, many at once on one event loop.

    A model that cannot answer raises an error of `megaflow.errors`: `InvalidArgument` for a request that is
    wrong in itself, `ResourceExhausted` with `retry_after` where it is busy, `Unavailable` and
    `DeadlineExceeded` where it failed, which makes the caller's attempt invalid and is never a reward.
    """

    name: str
    """What it calls itself to those who ask for its name."""

    per_attempt: ClassVar[bool] = False
    """Whether what it answers depends on what it was asked before, so that each attempt needs one of its own."""

    paths: ClassVar[frozenset[str]] = frozenset({"api_key_file"})
    """The settings of `configured` that may be paths of files: they are seen from where the configuration is read."""

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> Model:
        """The model that a table `[models.NAME]` asks for.

        Args:
            settings: the keys of the table, but for `kind` and `price`; here the constructor's arguments.

        Raises:
            InvalidArgument: begins with the name of the key that is wrong.
        """
        known = ", ".join(inspect.signature(cls).parameters)
        try:
            inspect.signature(cls).bind(**settings)
        except TypeError as error:
            wrong = ", ".join(settings) or "no keys"
            raise InvalidArgument(f"{wrong}: {error}; known are {known}") from None
        return cls(**settings)

    @abstractmethod
    def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """The answer's events as they come, `Finish` last.

        Closing the iterator early gives the request up, upstream too.
        """

    async def generate(self, request: Request) -> Completion:
        """The whole answer."""
        assembler = Assembler(self.name)
        async with aclosing(self.stream(request)) as stream:
            async for event in stream:
                assembler.add(event)
        return assembler.completion()

    async def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of connections; calls under way fail."""


@runtime_checkable
class Trained(Protocol):
    """A model whose weights a trainer updates while rollouts ask: calls that begin while it is paused wait.

    What `pause` and `update_weights` take beside the version is the engine's own.
    """

    weight_version: WeightVersion | None

    @property
    def paused(self) -> bool:
        """Whether calls wait."""
        ...

    @property
    def pause(self) -> Callable[..., Awaitable[object]]:
        """Hold new calls back."""
        ...

    @property
    def update_weights(self) -> Callable[..., Awaitable[object]]:
        """Tokens that come afterwards are stamped with the version, its first argument."""
        ...

    async def resume(self) -> None:
        """Let calls go on."""
        ...
