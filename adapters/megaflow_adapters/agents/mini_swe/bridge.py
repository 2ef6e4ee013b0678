"""Code that blocks, in a thread, and the coroutines that it waits for, in the task that started it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

__all__ = ["Bridge", "Left"]

T = TypeVar("T")


class Left(Exception):
    """Nobody waits for what the thread does any more: raised in it, so that it ends."""


class _Asked(Generic[T]):
    """One coroutine that the thread waits for."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._answer: Future[T] = Future()

    def wait(self) -> T:
        return self._answer.result()

    async def fulfil(self) -> None:
        try:
            answer = await self._make()
        except Exception as error:
            self._answer.set_exception(error)
        except BaseException:
            self.refuse()
            raise
        else:
            self._answer.set_result(answer)

    def refuse(self) -> None:
        self._answer.set_exception(Left())


class Bridge:
    """Made on an event loop; `run` once.

    What the thread asks for is awaited by the task that called `run`, one at a time: it has that task's context, and is
    cancelled with it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Coroutines to await, and last what the thread came to.
        self._asked: asyncio.Queue[_Asked[Any] | Future[Any]] = asyncio.Queue()
        self._left = False

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives, called in a thread of its own: it may take as long as an attempt, and there are many."""
        # A daemon: one that computes for ever keeps no process from ending.
        threading.Thread(target=self._work, args=(work,), daemon=True).start()
        try:
            while True:
                asked = await self._asked.get()
                if isinstance(asked, Future):
                    result: T = asked.result()
                    return result
                await asked.fulfil()
        finally:
            self._left = True
            while not self._asked.empty():
                self._put(self._asked.get_nowait())

    def call(self, make: Callable[[], Awaitable[T]]) -> T:
        """In the thread: what the coroutine gives that `make` makes. Raises what it raised, or Left."""
        asked = _Asked(make)
        self._loop.call_soon_threadsafe(self._put, asked)
        return asked.wait()

    def _put(self, asked: _Asked[Any] | Future[Any]) -> None:
        if not self._left:
            self._asked.put_nowait(asked)
        elif isinstance(asked, _Asked):
            asked.refuse()

    def _work(self, work: Callable[[], Any]) -> None:
        end: Future[Any] = Future()
        try:
            end.set_result(work())
        except BaseException as error:
            end.set_exception(error)
        self._loop.call_soon_threadsafe(self._put, end)
