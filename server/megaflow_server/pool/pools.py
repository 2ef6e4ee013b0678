"""All pools of a server: one for each template and image, made as they are asked for."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from megaflow.errors import MegaflowError
from megaflow_server.backends.base import Backend
from megaflow_server.backends.spec import Profile
from megaflow_server.pool.leased import Leased, PoolStatus
from megaflow_server.pool.making import Maker
from megaflow_server.pool.pool import Pool
from megaflow_server.pool.shared import CREATIONS, Room, Shortage, Throttle
from megaflow_server.removal import remove_tree
from megaflow_server.templates import Template, find_template

__all__ = ["Pools"]

_log = logging.getLogger(__name__)

# A pool with nothing in it is forgotten after so many seconds: each image has its own.
_FORGET_SECONDS = 600.0
# Nothing waits for longer than this to be looked at; seconds.
_LONGEST_SLEEP = 60.0


class Pools:
    """Leases sandboxes; see `Lender`. Used from one event loop.

    Args:
        backends: gives a backend by its name, the same one each time.
        run: the label "run" of everything that is made; its first characters begin every id.
        folder: private, made when there is something in it and removed at the end; for logs, and for sandboxes
            that are folders.
        templates: by name; what `prepare` and `template` look up.
        creations: how many there are at once on each backend.
    """

    def __init__(
        self,
        backends: Callable[[str], Backend],
        *,
        run: str,
        folder: Path,
        templates: Mapping[str, Template] | None = None,
        creations: int = CREATIONS,
    ) -> None:
        self.templates = dict(templates or {})
        self.run = run
        self._backends = backends
        self._folder = folder
        self._creations = creations
        self._throttles: dict[str, Throttle] = {}
        self._rooms: dict[str, Room] = {}  # by the template's name
        self._shortage = Shortage()
        self._pools: dict[Template, Pool] = {}
        self._numbers = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None
        self._stepping = False
        self._stopped = False

    async def start(self) -> None:
        """Look at every template, fetch the images that they name, and begin to create what always waits.

        Raises:
            NotFound, InvalidArgument, FailedPrecondition, Unavailable: a template cannot be used; names it.
        """
        for template in self.templates.values():
            try:
                await self._begin(template)
            except MegaflowError as error:
                if error.message.startswith("template "):
                    raise
                message = f"template {template.name}: {error.message}"
                raise type(error)(message, retry_after=error.retry_after) from error

    async def _begin(self, template: Template) -> None:
        takes_images = "images" in self._backends(template.backend).capabilities()
        if takes_images and template.image is None:
            return  # each task brings its own
        pool = self._pool(template)
        await pool.prepare()
        pool.state.tick()
        pool.act()

    def template(self, name: str) -> Template:
        """A template by its name; NotFound with the nearest."""
        return find_template(self.templates, name)

    def profile(self, backend: str) -> Profile | None:
        return self._backends(backend).profile

    def check(self, template: Template) -> None:
        self._pool(template)

    async def lease(
        self,
        template: Template,
        *,
        image: str | None = None,
        owner: str,
        session: str,
        deadline: float | None = None,
    ) -> Leased:
        pool = self._pool(template.with_image(image))
        return await pool.lease(owner, math.inf if deadline is None else deadline)

    async def prepare(
        self,
        template: Template,
        count: int,
        *,
        image: str | None = None,
        owner: str = "local",
        purpose: str = "",
    ) -> PoolStatus:
        """Expect so many leases by an owner, in place of what it announced for that purpose before.

        Returns how its pool is then.

        What was announced waits for 10 minutes, and no longer than until it is claimed. Returns once the image
        is at hand, and creation has begun.

        Raises:
            NotFound, InvalidArgument, FailedPrecondition: as `lease`.
        """
        pool = self._pool(template.with_image(image))
        await pool.prepare()
        pool.used = asyncio.get_running_loop().time()
        pool.state.announce(owner, count, purpose)
        pool.act()
        return pool.status()

    def list(self) -> list[PoolStatus]:
        """How every pool is, by template and image; templates with none yet are empty ones."""
        here = [pool.status() for pool in self._pools.values()]
        return sorted(here, key=lambda one: (one.template, one.image or ""))

    def owns(self, instance: str) -> bool:
        """Whether an instance of this run is meant to be there, as far as pools are concerned."""
        return any(pool.owns(instance) for pool in self._pools.values())

    async def stop(self, within: float = 10.0) -> None:
        """End everything, and wait so many seconds at most for that."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(pool.stop(within) for pool in self._pools.values()))
        try:
            await asyncio.to_thread(remove_tree, self._folder)
        except OSError as error:
            _log.warning("%s is left of pools: %s", self._folder, error)

    def _pool(self, template: Template) -> Pool:
        # What is not part of an instance does not tell two pools apart.
        key = replace(template, evidence=())
        pool = self._pools.get(key)
        if pool is None:
            maker = Maker(self._backends(template.backend), template, self.run, self._folder)
            name = maker.backend.name
            room = self._rooms.setdefault(template.name, Room(template.pool.max))
            room.most = max(room.most, template.pool.max)
            pool = self._pools[key] = Pool(
                maker,
                new_id=lambda: f"s-{self.run[:12]}-{next(self._numbers)}",
                throttle=self._throttles.setdefault(name, Throttle(self._creations)),
                room=room,
                shortage=self._shortage,
                changed=self._step,
            )
        return pool

    def _step(self) -> None:
        """Have each pool decide again: one may have made room for another. Who waits longest goes first."""
        if self._stepping or self._stopped:
            return
        self._stepping = True
        now = asyncio.get_running_loop().time()
        # Of many pools most have nothing to decide, or cannot do anything about it.
        stirring = [
            one
            for one in self._pools.values()
            if one.due <= now or (one.state.lacks and one.throttle.is_free)
        ]
        try:
            for pool in sorted(stirring, key=_waits_since):
                if pool.due > now and not pool.throttle.is_free:
                    continue  # who waited longer has taken the last place
                if pool.state.starved:
                    self._make_room(pool)
                pool.state.tick()
                pool.act()
        finally:
            self._stepping = False
        self._forget()
        self._sleep()

    def _make_room(self, starved: Pool) -> None:
        """End what waits for nobody in a pool of another image, for somebody who waits in this one."""
        alike = [
            one
            for one in self._pools.values()
            if one is not starved and one.template.name == starved.template.name
        ]
        for pool in sorted(alike, key=lambda one: one.used):
            if pool.state.evict():
                pool.act()
                return

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        named = self.templates.values()
        for key, pool in list(self._pools.items()):
            if pool.idle and pool.used + _FORGET_SECONDS < now and pool.template not in named:
                del self._pools[key]

    def _sleep(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        due = min((pool.due for pool in self._pools.values()), default=math.inf)
        due = min(due, loop.time() + _LONGEST_SLEEP)
        self._timer = loop.call_at(due, self._step)


def _waits_since(pool: Pool) -> float:
    return pool.state.claims[0].arrived if pool.state.claims else math.inf
