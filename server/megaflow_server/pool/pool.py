"""One pool: does what its state decides, over a backend, and tells it what came of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from megaflow.errors import MegaflowError
from megaflow_server.pool import refusals
from megaflow_server.pool.actions import Action, Create, Destroy, Refuse, Reset, Serve
from megaflow_server.pool.host import Files
from megaflow_server.pool.kept import Kept
from megaflow_server.pool.leased import Leased, PoolStatus
from megaflow_server.pool.making import Maker
from megaflow_server.pool.shared import Room, Shortage, Throttle
from megaflow_server.pool.state import PoolState
from megaflow_server.pool.status import status_of
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["Pool"]

_log = logging.getLogger(__name__)

# Before what could not be destroyed is destroyed again; seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 4.0
# Before an instance is created that nobody waits for; seconds.
_POLITE_SECONDS = 0.05
# What a sandbox that has waited takes to say that it lives; seconds.
_ANSWER_SECONDS = 10.0


class Pool:
    """The instances of one template and image.

    Attributes:
        used: when it last had something to do with a session.
        due: when it has to decide again, whatever happens.

    Args:
        new_id: gives an id that no other instance has had.
        throttle, room, shortage: see `PoolState`.
        changed: called when other pools may have room that they had not.
    """

    def __init__(
        self,
        maker: Maker,
        *,
        new_id: Callable[[], str],
        throttle: Throttle,
        room: Room,
        shortage: Shortage,
        changed: Callable[[], None],
    ) -> None:
        self.maker = maker
        self.template = maker.template
        self._loop = asyncio.get_running_loop()
        image = f" with image {self.template.image}" if self.template.image else ""
        self.state = PoolState(
            f"template {self.template.name}{image}",
            self.template.pool,
            maker.mode,
            new_id=new_id,
            throttle=throttle,
            room=room,
            shortage=shortage,
            clock=self._loop.time,
        )
        self.used = self._loop.time()
        self.due = math.inf
        self.throttle = throttle
        self._new_id = new_id
        self._changed = changed
        self._kept: dict[str, Kept] = {}
        self._present: set[str] = set()
        self._claims: dict[int, asyncio.Future[Leased]] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._preparing: asyncio.Task[None] | None = None

    async def lease(self, owner: str, deadline: float) -> Leased:
        """See `Lender.lease`."""
        while True:
            leased = await self._claim(owner, deadline)
            try:
                # One that has waited may have died a moment ago, of which nobody has told yet.
                if not leased.warm or await _answers(leased.sandbox):
                    return leased
            except asyncio.CancelledError:
                await leased.release(dirty=False)
                raise
            await leased.release(dirty=True)

    async def _claim(self, owner: str, deadline: float) -> Leased:
        number = next(self._numbers)
        future: asyncio.Future[Leased] = self._loop.create_future()
        self._claims[number] = future
        self.used = self._loop.time()
        self.state.claim(number, owner, deadline)
        self.act()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                await future.result().release(dirty=False)
            self.state.give_up(number)
            self.act()
            raise
        finally:
            del self._claims[number]

    def act(self) -> None:
        """Do what the state has decided, and say that it may have changed what others can do."""
        while actions := self.state.take():
            for action in actions:
                self._do(action)
        self.due = self.state.due()
        self._changed()

    def owns(self, instance: str) -> bool:
        """Whether an instance is one of these, or was made of one by restoring a snapshot."""
        return instance in self._present or instance.rpartition("-")[0] in self._present

    @property
    def idle(self) -> bool:
        """Whether there is nothing in it, nor anybody who waits."""
        return not self._present and not self._claims

    def status(self) -> PoolStatus:
        return status_of(self.state, self.template, self.maker.backend.name)

    async def prepare(self, *, again: bool = False) -> None:
        """Have the image at hand; several at once share one attempt, and one that failed is made again.

        Args:
            again: also where it was at hand before: images are removed.
        """
        attempt = self._preparing
        if attempt is None or _has_failed(attempt) or (again and attempt.done()):
            attempt = self._preparing = self._loop.create_task(self.maker.prepare())
        await asyncio.shield(attempt)

    async def stop(self, within: float) -> None:
        """End everything, and wait so many seconds at most until nothing is left."""
        self.state.close()
        self.act()
        deadline = self._loop.time() + within
        while self._tasks and (left := deadline - self._loop.time()) > 0:
            # What is created meanwhile is destroyed, by a task of its own.
            await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        tasks = [*self._tasks, *([self._preparing] if self._preparing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _do(self, action: Action) -> None:
        match action:
            case Create(id=name):
                self._present.add(name)
                self._soon(self._create(name))
            case Reset(id=name):
                self._soon(self._reset(name))
            case Destroy(id=name):
                self._soon(self._destroy(name))
            case Serve(claim=number, id=name, warm=warm):
                self._serve(number, name, warm)
            case Refuse(claim=number, error=error):
                future = self._claims.get(number)
                if future is not None and not future.done():
                    future.set_exception(error)

    def _serve(self, number: int, name: str, warm: bool) -> None:
        kept = self._kept[name]
        sandbox = kept.sandbox
        given_back = False

        async def release(dirty: bool) -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._soon(self._take_back(name, sandbox, dirty))

        future = self._claims.get(number)
        if future is None or future.done():  # whoever waited has gone
            self.state.release(name, dirty=False)
        else:
            future.set_result(Leased(sandbox, self.template, name, warm, release, kept.host.stats))

    async def _take_back(self, name: str, sandbox: AsyncSandbox, dirty: bool) -> None:
        await sandbox.close()
        self.used = self._loop.time()
        self.state.release(name, dirty=dirty or sandbox.was_kept)
        self.act()

    async def _create(self, name: str) -> None:
        try:
            if (
                not self.state.claims
            ):  # what nobody waits for lets those go first who have just been served
                await asyncio.sleep(_POLITE_SECONDS)
            await self.prepare(again=True)
            began = self._loop.time()
            host = await self.maker.make(name)
            if host.blind is not None:
                self.state.cannot_compare(f"no instance is used again: {host.blind}")
            kept = self._kept[name] = Kept(host, self.template)
            await kept.settle(compares=self.state.choice.compares)
        except Exception as error:
            await self._clear(name)
            self.throttle.give()
            self.state.creation_failed(name, refusals.as_ours(error))
        except asyncio.CancelledError:
            self.throttle.give()
            raise
        else:
            self.throttle.give()
            self.state.created(name, self._loop.time() - began)
            self._soon(self._watch(name, kept))
        self.act()

    async def _clear(self, name: str) -> None:
        """Destroy what a creation that failed may have left: now, or as soon as that is possible."""
        kept = self._kept.pop(name, None)
        try:
            await self._end(name, kept)
        except MegaflowError as error:
            _log.warning("instance %s may have left something: %s", name, error.message)
            self._soon(self._end_somehow(name, kept))
        else:
            self._present.discard(name)

    async def _watch(self, name: str, kept: Kept) -> None:
        how = await kept.host.wait()
        self.state.died(name, str(how))
        self.act()

    async def _reset(self, name: str) -> None:
        began = self._loop.time()
        fault: str | None
        try:
            fault = await self._kept[name].reset(self._original)
        except Exception as error:
            fault = refusals.as_ours(error).message
        if fault is not None and not self.state.closed:
            _log.info("instance %s is not used again: %s", name, fault)
        self.state.was_reset(name, self._loop.time() - began, fault)
        self.act()

    async def _original(self, paths: Sequence[str]) -> Files:
        name = self._new_id()
        self._present.add(name)
        try:
            return await self.maker.original(paths, name)
        finally:
            self._present.discard(name)

    async def _destroy(self, name: str) -> None:
        await self._end_somehow(name, self._kept[name])
        self._kept.pop(name, None)
        self.state.destroyed(name)
        self.act()

    async def _end_somehow(self, name: str, kept: Kept | None) -> None:
        """End an instance, however often that takes."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._end(name, kept)
                break
            except MegaflowError as error:
                _log.warning("instance %s is still there: %s", name, error.message)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._present.discard(name)

    async def _end(self, name: str, kept: Kept | None) -> None:
        if kept is not None:
            await kept.host.destroy()
        else:
            await self.maker.backend.destroy(name, grace=0)

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a pool's task failed", exc_info=error)


async def _answers(sandbox: AsyncSandbox) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await sandbox.ping()
    except (MegaflowError, TimeoutError):
        return False
    return True


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
