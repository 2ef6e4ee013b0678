"""Which images this host has, and how it comes to have them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from megaflow.task_folders.context import REPOSITORY
from megaflow_server.backends.base import Image, Progress
from megaflow_server.backends.docker import names
from megaflow_server.backends.docker.calls import Calls, credentials
from megaflow_server.backends.docker.failures import EngineRefusal, refusal
from megaflow_server.backends.docker.images import Pull, Reference
from megaflow_server.backends.docker.options import DockerOptions
from megaflow_server.backends.docker.wire import EngineSocket
from megaflow_server.quantities import shown

__all__ = ["Images"]

_log = logging.getLogger(__name__)

# Between two lines of a log about one fetch; seconds.
_REPORT_SECONDS = 5.0


class Images:
    """The engine's images; fetches for one image are one fetch."""

    def __init__(self, calls: Calls, socket: EngineSocket, options: DockerOptions) -> None:
        self._calls = calls
        self._socket = socket
        self._options = options
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._listeners: dict[str, list[Progress]] = {}
        # What images carry that their labels say were committed, by their ids: that does not change.
        self._committed: dict[str, Image | None] = {}

    async def find(self, image: str) -> Mapping[str, Any] | None:
        """What the engine knows of an image, under its own name or its mirror's; None for nothing.

        Raises:
            InvalidArgument: that is no name of an image.
            FailedPrecondition: it is not pinned, and must be.
        """
        reference = self._reference(image)
        for one in (reference, reference.mirrored(self._options.mirror)):
            found = await self._inspect(one.full if not one.is_id else one.text)
            if found is not None:
                return found
        return None

    async def prepare(self, image: str, progress: Progress | None) -> None:
        """Fetch an image that is not here. Who waits for it no longer leaves the others their fetch."""
        if await self.find(image) is not None:
            return
        task = self._pulls.get(image)
        if task is None:
            self._listeners[image] = []
            task = self._pulls[image] = asyncio.ensure_future(self._pull(image))
            task.add_done_callback(lambda done: self._over(image, done))
        listeners = self._listeners[image]
        if progress is not None:
            listeners.append(progress)
        try:
            await asyncio.shield(task)
        finally:
            if progress is not None:
                listeners.remove(progress)

    async def committed(self, scope: str, labels: Mapping[str, str]) -> Sequence[Image]:
        """What was committed with these labels."""
        chosen = names.selector(scope, labels, f"{names.IMAGE}=commit")
        found = await self._calls("images", all=True, filters=chosen)
        ours = [await self._carried(scope, one["Id"]) for one in found]
        return [one for one in ours if one is not None]

    async def remove(self, scope: str, image: str) -> None:
        """Remove what was committed; not what it was made from."""
        found = await self._inspect(image)
        if found is None:
            return
        if names.committed(scope, found) is None:
            raise InvalidArgument(f"image={image!r} was not committed here, so it is not removed")
        try:
            await self._calls("remove_image", image, noprune=True)
        except EngineRefusal as error:
            if error.status != 404:
                raise refusal(f"image {image} cannot be removed", error) from error
        self._committed.pop(found["Id"], None)

    async def _carried(self, scope: str, image: str) -> Image | None:
        """What was committed in a scope, of what its labels say was; what was not is told of once."""
        if image not in self._committed:
            found = await self._inspect(image)
            if found is None:
                return None
            self._committed[image] = names.committed(scope, found)
            if self._committed[image] is None:
                _log.warning(
                    "image %s was not committed by a server of the scope %s, though its labels name it: it is "
                    "left alone",
                    image,
                    scope,
                )
        return self._committed[image]

    def _reference(self, image: str) -> Reference:
        reference = Reference.parse(image)
        # What was built here is named by what it was built from, and no registry has another of that name.
        pinned = (
            reference.digest is not None or reference.is_id or reference.repository == REPOSITORY
        )
        if self._options.require_digest and not pinned:
            raise FailedPrecondition(
                f"image={image!r} is not pinned, and this server takes pinned images alone: write "
                f"{reference.repository}@sha256:…"
            )
        return reference

    async def _inspect(self, image: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = await self._calls("inspect_image", image)
        except EngineRefusal as error:
            if error.status == 404:
                return None
            raise refusal(f"image={image!r}", error) from error
        return found

    async def _pull(self, image: str) -> None:
        reference = self._reference(image)
        if reference.is_id:
            raise NotFound(
                f"image={image!r} is not on this host, and no registry knows it by its id"
            )
        if reference.repository == REPOSITORY:
            raise NotFound(
                f"image={image!r} is not on this host: it is built from a task's Dockerfile, by `megaflow images "
                "build TASKS`, or when it is asked for, by a server that has `[docker] build = true`"
            )
        source = reference.mirrored(self._options.mirror)
        pull, listeners = Pull(image), self._listeners[image]
        report = _Report(image, source.full)
        query = urlencode({"fromImage": source.repository, "tag": source.version})
        headers = await self._calls.run(lambda api: credentials(api, source.repository))
        try:
            async with self._socket.objects("POST", f"/images/create?{query}", headers) as events:
                while (event := await self._next(events)) is not None:
                    said = pull.feed(event)
                    for listener in [report.tell, *listeners]:
                        listener(*said)
        except EngineRefusal as error:
            raise pull.failure(error.message) from error
        except TimeoutError:
            raise Unavailable(
                f"image={image!r}: nothing came from its registry for {self._options.pull_timeout:g} s",
                retry_after=1.0,
            ) from None
        if await self._inspect(source.full) is None:
            raise NotFound(f"image={image!r} was fetched as {source.full}, and is not there")
        report.done()

    async def _next(self, events: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
        async with asyncio.timeout(self._options.pull_timeout):
            return await anext(events, None)

    def _over(self, image: str, task: asyncio.Task[None]) -> None:
        del self._pulls[image], self._listeners[image]
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more


class _Report:
    """A fetch in the server's log, for whoever waits for it to serve."""

    def __init__(self, image: str, source: str) -> None:
        self._image = image
        self._began = self._told = time.monotonic()
        _log.info("image %s: fetching %s", image, source)

    def tell(self, status: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._told + _REPORT_SECONDS and total:
            self._told = now
            _log.info("image %s: %s of %s so far", self._image, shown(done), shown(total))

    def done(self) -> None:
        _log.info("image %s: here after %.1f s", self._image, time.monotonic() - self._began)
