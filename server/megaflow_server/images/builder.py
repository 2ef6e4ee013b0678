"""Has images at hand: builds or fetches those that are not there, several at a time, each once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Literal, Protocol

from megaflow.errors import InvalidArgument, MegaflowError
from megaflow_server.backends.base import Progress
from megaflow_server.images.plan import Wanted
from megaflow_server.quantities import shown

__all__ = ["AT_ONCE", "Builder", "Builds", "Outcome", "Told"]

# An engine builds on the processors of one host; most of a build waits for a disk or a network.
AT_ONCE = 4

# Told while an image comes about: which, and what goes on.
Told = Callable[[str, str], None]


class Builds(Protocol):
    """What an engine must be able to do; see `DockerBuilds`."""

    async def has(self, image: str) -> bool: ...

    async def prepare(self, image: str, progress: Progress | None = None) -> None: ...

    async def build(
        self,
        image: str,
        context: IO[bytes],
        *,
        timeout: float,
        progress: Callable[[str], None] | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What came of an image.

    Attributes:
        how: "there" for one that was at hand before.
        error: why there is none.
    """

    image: str
    tasks: tuple[str, ...]
    how: Literal["there", "built", "fetched", "failed"]
    seconds: float
    error: MegaflowError | None = None


class Builder:
    """Has images at hand; used from one event loop. Who asks for one that is under way waits for the same.

    Args:
        at_once: how many are built or fetched side by side.
    """

    def __init__(self, engine: Builds, *, at_once: int = AT_ONCE) -> None:
        if at_once < 1:
            raise InvalidArgument(f"at_once={at_once}: takes 1 or more")
        self._engine = engine
        self._turn = asyncio.Semaphore(at_once)
        self._under_way: dict[str, asyncio.Task[Outcome]] = {}

    async def have(self, wanted: Wanted, told: Told | None = None) -> Outcome:
        """One image. Its error is part of the outcome; who waits no longer leaves the others theirs."""
        task = self._under_way.get(wanted.image)
        if task is None:
            task = asyncio.ensure_future(self._have(wanted, told or _nobody))
            self._under_way[wanted.image] = task
            task.add_done_callback(lambda _: self._under_way.pop(wanted.image))
        return await asyncio.shield(task)

    async def have_all(
        self,
        wanted: Iterable[Wanted],
        told: Told | None = None,
        done: Callable[[Outcome], None] | None = None,
    ) -> Sequence[Outcome]:
        """All of them, in order.

        Args:
            done: told of each, as it is there.
        """

        async def one(image: Wanted) -> Outcome:
            outcome = await self.have(image, told)
            if done is not None:
                done(outcome)
            return outcome

        return await asyncio.gather(*map(one, wanted))

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _have(self, wanted: Wanted, told: Told) -> Outcome:
        began = time.monotonic()
        tasks = tuple(wanted.tasks)
        try:
            async with self._turn:
                began = time.monotonic()
                how = await self._make(wanted, told)
        except MegaflowError as error:
            return Outcome(wanted.image, tasks, "failed", time.monotonic() - began, error)
        return Outcome(wanted.image, tasks, how, time.monotonic() - began)

    async def _make(self, wanted: Wanted, told: Told) -> Literal["there", "built", "fetched"]:
        image = wanted.image
        if await self._engine.has(image):
            return "there"
        if wanted.context is None:

            def fetched(what: str, here: int, total: int) -> None:
                told(image, f"{what} {shown(here)} of {shown(total)}" if total else what)

            await self._engine.prepare(image, fetched)
            return "fetched"
        with await asyncio.to_thread(wanted.context.packed) as packed:
            await self._engine.build(
                image, packed, timeout=wanted.timeout, progress=lambda step: told(image, step)
            )
        return "built"


def _nobody(image: str, what: str) -> None:
    """Who does not want to know."""
