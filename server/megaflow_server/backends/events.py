"""One source of events, any number of subscribers."""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from megaflow_server.backends.base import Event

__all__ = ["EventHub", "Subscription"]


class Subscription:
    """The events since `EventHub.subscribe`; it ends when it is closed, or dropped."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._closed = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        event = None if self._closed and self._queue.empty() else await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """End the iteration after the events that are already here."""
        if not self._closed:
            self._closed = True
            self._queue.put_nowait(None)

    def put(self, event: Event) -> None:
        if not self._closed:
            self._queue.put_nowait(event)


class EventHub:
    """Hands every published event to every subscription there is.

    Queues are not bounded, since an event that is dropped is a death that nobody sees; a
    subscription that its owner dropped is forgotten.
    """

    def __init__(self) -> None:
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    def subscribe(self) -> Subscription:
        """Everything that is published from now on, whenever the iteration begins."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def publish(self, event: Event) -> None:
        for subscription in list(self._subscriptions):
            subscription.put(event)
