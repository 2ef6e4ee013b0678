"""What containers have written, where the engine's storage sets no limit: looked at, now and then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from megaflow.errors import MegaflowError
from megaflow_server.backends.docker import names
from megaflow_server.backends.docker.calls import Calls
from megaflow_server.backends.docker.failures import EngineRefusal

__all__ = ["Sizes", "volume_sizes"]

_log = logging.getLogger(__name__)

# Between two looks, which read a whole folder tree each: seconds, and as a multiple of what one took.
_PAUSE = 1.0
_SPARE = 10.0


class Sizes:
    """Looks, for as long as somebody wants to know.

    Args:
        wanted: whether somebody does.
        volumes: the engine's ids of containers by the names of their volumes.
        on_sizes: gets the bytes written, by the engine's id of the container.
    """

    def __init__(
        self,
        calls: Calls,
        scope: str,
        wanted: Callable[[], bool],
        volumes: Callable[[], Mapping[str, str]],
        on_sizes: Callable[[Mapping[str, int]], Awaitable[None]],
    ) -> None:
        self._calls = calls
        self._filters = names.selector(scope, {})
        self._wanted = wanted
        self._volumes = volumes
        self._in_volumes: Mapping[str, int] = {}
        self._on_sizes = on_sizes
        self._task: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Look from now on."""
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._look())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _look(self) -> None:
        while self._wanted():
            began = time.monotonic()
            try:
                found = await self._calls("containers", size=True, filters=self._filters)
                sizes = {one["Id"]: int(one.get("SizeRw", 0)) for one in found}
                await self._on_sizes(await self._with_volumes(sizes))
            except (MegaflowError, EngineRefusal) as error:
                _log.debug("the sizes of containers are not known: %s", error)
            await asyncio.sleep(max(_PAUSE, _SPARE * (time.monotonic() - began)))

    async def _with_volumes(self, sizes: dict[str, int]) -> Mapping[str, int]:
        """Sizes of containers, with those of their volumes, as far as these were last told."""
        volumes = self._volumes()
        if volumes:
            try:
                self._in_volumes = volume_sizes(await self._calls.run(_usage, slow=True))
            except (MegaflowError, EngineRefusal) as error:
                _log.debug("the sizes of volumes are not known: %s", error)
        for volume, container in volumes.items():
            if container in sizes:
                sizes[container] += self._in_volumes.get(volume, 0)
        return sizes


def _usage(api: Any) -> Mapping[str, Any]:
    """What the engine says that volumes hold; one that does not know the choice looks at everything."""
    chosen = {"type": "volume", "verbose": "1"}
    place = f"{api.base_url}/v{api.api_version}/system/df"
    reply = api.get(place, params=chosen, timeout=api.timeout)
    reply.raise_for_status()
    said: Mapping[str, Any] = reply.json()
    return said


def volume_sizes(said: Mapping[str, Any]) -> Mapping[str, int]:
    """Bytes by the names of volumes, by what an older or a newer engine says; those that are counted."""
    listed = said.get("Volumes") or (said.get("VolumeUsage") or {}).get("Items") or ()
    used = {one["Name"]: (one.get("UsageData") or {}).get("Size", -1) for one in listed}
    return {name: size for name, size in used.items() if size >= 0}
