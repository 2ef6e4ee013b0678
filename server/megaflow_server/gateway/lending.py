"""Sandboxes for shards: leased before their environments are made, and given back when they end."""

from __future__ import annotations

import asyncio
import functools
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaflow.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    ResourceExhausted,
    SessionLost,
)
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.kept import Kept
from megaflow_server.gateway.records import Deadline, Shard
from megaflow_server.gateway.wanted import Wanted
from megaflow_server.pool.leased import Leased, Lender
from megaflow_server.sandbox.proxy import Door
from megaflow_server.templates import Template

__all__ = ["Held", "Lending", "Lent"]

# What a pool gets to say why nothing came in time; seconds.
_LATE = 0.5


@dataclass(frozen=True)
class Held:
    """An image of what a sandbox held, what that was made of, and the bytes that it has beyond that."""

    image: str
    template: Template
    size: int = 0


@dataclass(frozen=True)
class Lent:
    """A sandbox that is lent; `index` is the sub-environment that has it, counted over its session."""

    shard: Shard
    index: int
    parameter: str
    leased: Leased
    door: Door

    @property
    def name(self) -> str:
        """What tells it apart within its session."""
        return (
            f"{self.parameter}/{self.index}"
            if self.shard.session.spec.message().num_envs
            else self.parameter
        )


class Lending:
    """Lends sandboxes to shards.

    Args:
        folder: private, for their sockets.
        wanted: makes templates of what they ask for.

    Attributes:
        kept: those that outlive their sessions.
    """

    def __init__(self, lender: Lender, folder: Path, wanted: Wanted) -> None:
        self._lender = lender
        self._folder = folder
        self._wanted = wanted
        self._lent: dict[str, list[Lent]] = {}  # by shard
        self._asked: dict[
            str, tuple[Shard, Counter[str]]
        ] = {}  # how many of which template, by shard
        self._claimed: Counter[tuple[str, str | None]] = Counter()  # by template and image
        self._returning: set[asyncio.Task[None]] = set()
        self.kept = Kept()

    async def lend(
        self,
        shard: Shard,
        spec: pb.EnvironmentSpec,
        wanted: Sequence[pb.WantedSandbox],
        deadline: Deadline,
    ) -> pb.EnvironmentSpec:
        """The description of a shard with what its makers want.

        Raises:
            FailedPrecondition: these environments or this server cannot be given any, or not such ones.
            DeadlineExceeded: none came in time.
            NotFound, InvalidArgument, ResourceExhausted, Unavailable: as the pools say.
        """
        if spec.vectorization_mode == "vector_entry_point":
            raise FailedPrecondition(
                "vectorization_mode='vector_entry_point': sandboxes are lent to environments that are made one "
                "by one; use 'sync'"
            )
        part = pb.EnvironmentSpec()
        part.CopyFrom(spec)
        if len(part.makers) == 1 and spec.num_envs > 1:
            part.makers.extend([spec.makers[0]] * (spec.num_envs - 1))
        shared = len(spec.makers) == 1
        places = [
            (shard.first + index, maker, one)
            for index, maker in enumerate(part.makers)
            for one in wanted
            if one.maker == (0 if shared else index)
        ]
        templates = await self._wanted.templates(
            [one for *_, one in places],
            deadline,
            lambda found: self._check_room(shard, found),
            shard.session.mode,
        )
        try:
            async with asyncio.timeout_at(_at(deadline, _LATE)):
                lent = await _all(
                    self._lend_one(shard, index, one.parameter, template, deadline)
                    for (index, _, one), template in zip(places, templates, strict=True)
                )
        except DeadlineExceeded as error:
            raise deadline.exceeded(error.message) from error
        except TimeoutError:
            raise deadline.exceeded("its sandboxes were still being made ready") from None
        for (_, maker, _), one in zip(places, lent, strict=True):
            maker.sandboxes.append(one)
        return part

    def _check_room(self, shard: Shard, templates: Sequence[Template]) -> None:
        """Raises FailedPrecondition where a session would wait for itself: it asks for more than there may ever be."""
        self._asked[shard.id] = shard, Counter(template.name for template in templates)
        held: Counter[str] = Counter()
        for other, asked in self._asked.values():
            if other.session is shard.session and other.loss is None:
                held += asked
        for template in templates:
            if held[template.name] > template.pool.max:
                raise FailedPrecondition(
                    f"template {template.name}: one session asks for more sandboxes than pool.max = "
                    f"{template.pool.max}: open several smaller ones, or name a template with a larger pool.max"
                )

    async def _lend_one(
        self, shard: Shard, index: int, parameter: str, template: Template, deadline: Deadline
    ) -> pb.LentSandbox:
        leased = await self._leased(template, shard, deadline)
        door = Door(leased.sandbox, self._folder)
        self._lent.setdefault(shard.id, []).append(Lent(shard, index, parameter, leased, door))
        await door.open()
        return pb.LentSandbox(parameter=parameter, path=door.path, capability=door.capability)

    async def _leased(self, template: Template, shard: Shard, deadline: Deadline) -> Leased:
        """A sandbox; one that is only kept gives way where there may be no more."""
        kind = template.name, template.image
        self._claimed[kind] += 1
        try:
            lent = sum(_kind(one.leased) == kind for all_ in self._lent.values() for one in all_)
            kept = self.kept.count(lambda leased: _kind(leased) == kind)
            if lent + kept + self._claimed[kind] > template.pool.max:
                self.kept.make_room(lambda leased: _kind(leased) == kind)
            while True:
                try:
                    return await self._lender.lease(
                        template,
                        owner=shard.session.tenant,
                        session=shard.session.id,
                        deadline=_at(deadline),
                    )
                except ResourceExhausted:
                    if not self.kept.make_room():
                        raise
        finally:
            self._claimed[kind] -= 1

    def opened(self, shard: Shard, on_lost: Callable[[Shard, SessionLost], None]) -> None:
        """From here on a shard ends with any of its sandboxes, which `on_lost` has to see to."""
        for lent in self._lent.get(shard.id, ()):
            lent.door.on_lost = functools.partial(_lost, lent, on_lost)

    def all(self) -> list[Lent]:
        """What shards have that are there."""
        return [lent for all_ in self._lent.values() for lent in all_ if lent.shard.loss is None]

    async def snapshot(self, shard_id: str) -> tuple[dict[str, Held], frozenset[str]]:
        """Images of what a shard's sandboxes hold, by parameter, and of what these came of.

        Raises FailedPrecondition where a sandbox keeps none.
        """
        images: dict[str, Held] = {}
        origins: set[str] = set()
        for lent in self._lent.get(shard_id, ()):
            sandbox = lent.leased.sandbox
            origins |= sandbox.images()
            try:
                image = await sandbox.snapshot()
                size = sandbox.size_of(image)
                images[lent.parameter] = Held(image, lent.leased.template, size)
            except FailedPrecondition as error:
                raise FailedPrecondition(f"{lent.parameter}: {error.message}") from error
        return images, frozenset(origins)

    async def restore(self, shard_id: str, images: Mapping[str, Held]) -> None:
        """Have a shard's sandboxes be what such images hold, by parameter."""
        for lent in self._lent.get(shard_id, ()):
            await lent.door.take_over(images[lent.parameter].image)

    def give_up(self, images: Mapping[str, Held]) -> None:
        """Nobody goes back to images that `snapshot` gave any more."""
        for all_ in self._lent.values():
            for lent in all_:
                for held in images.values():
                    lent.leased.sandbox.give_up(held.image)

    def owns(self, image: str) -> bool:
        """Whether a sandbox that is lent came of an image, or has kept it."""
        lent = [one.leased for all_ in self._lent.values() for one in all_]
        kept = [one.leased for one in self.kept.all()]
        return any(image in leased.sandbox.images() for leased in lent + kept)

    def take_back(self, shard_id: str) -> None:
        """Shut the doors of a shard and give back what is behind them, without anybody's waiting. Idempotent.

        What its session wants kept outlives it.
        """
        self._asked.pop(shard_id, None)
        for lent in self._lent.pop(shard_id, ()):
            task = asyncio.create_task(self._return(lent))
            self._returning.add(task)  # the loop keeps only a weak reference
            task.add_done_callback(self._returning.discard)

    async def _return(self, lent: Lent) -> None:
        session, lost = lent.shard.session, lent.shard.loss is not None
        keep = False
        try:
            await lent.door.close()
            keep = self.kept.wants(session, lost=lost or session.was_lost)
        finally:
            if not keep:
                await lent.leased.release(dirty=lost)
        if keep:
            await self.kept.take(session, lent.name, lent.leased)

    async def stop(self) -> None:
        """Take back everything, and build nothing any more."""
        await self.kept.stop()
        for shard_id in list(self._lent):
            self.take_back(shard_id)
        await asyncio.gather(*self._returning, return_exceptions=True)
        await self._wanted.stop()


def _at(deadline: Deadline, later: float = 0.0) -> float | None:
    return None if math.isinf(deadline.at) else deadline.at + later


def _lost(lent: Lent, on_lost: Callable[[Shard, SessionLost], None], error: SessionLost) -> None:
    on_lost(lent.shard, SessionLost(f"{lent.parameter}: {error.message}"))


def _kind(leased: Leased) -> tuple[str, str | None]:
    return leased.template.name, leased.template.image


async def _all(lending: Iterable[Coroutine[Any, Any, pb.LentSandbox]]) -> list[pb.LentSandbox]:
    """What each gives, side by side and asked for in this order; where one fails, the others are broken off."""
    tasks = [asyncio.create_task(one) for one in lending]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
