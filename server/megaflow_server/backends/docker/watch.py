"""The engine's events, for as long as there is an engine: after each break, what was missed is looked up."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from megaflow.errors import Unavailable
from megaflow_server.backends.docker.failures import EngineRefusal
from megaflow_server.backends.docker.wire import EngineSocket

__all__ = ["Watch"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# How long the engine may be gone until whoever waits for its events is told so.
_READY_SECONDS = 10.0


class Watch:
    """Follows the containers of a scope.

    Args:
        on_event: called for each event of one of them, in order.
        catch_up: called after each connection, once events flow: what happened before, nobody tells.
    """

    def __init__(
        self,
        socket: EngineSocket,
        label: str,
        on_event: Callable[[Mapping[str, Any]], None],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._socket = socket
        chosen = {"type": ["container"], "label": [label], "event": ["die", "destroy"]}
        self._filters = json.dumps(chosen)
        self._on_event = on_event
        self._catch_up = catch_up
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._why = ""

    async def ready(self) -> None:
        """Return once events flow.

        Raises:
            Unavailable: the engine cannot be reached.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._follow())
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._connected.wait()
        except TimeoutError:
            raise Unavailable(f"the Docker Engine tells no events: {self._why}") from None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                query = urlencode({"since": f"{time.time():.9f}", "filters": self._filters})
                async with self._socket.objects("GET", f"/events?{query}") as events:
                    await self._catch_up()
                    self._connected.set()
                    pause = _FIRST_PAUSE
                    async for event in events:
                        self._on_event(event)
                self._why = "it ended its events"
            except (Unavailable, EngineRefusal) as error:
                self._why = str(error)
            if self._connected.is_set():
                _log.warning("the Docker Engine is gone: %s", self._why)
            self._connected.clear()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
