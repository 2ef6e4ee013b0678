"""Images that are built when an environment asks for them, where they are not there yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from megaflow.errors import FailedPrecondition
from megaflow.sandbox_request import SandboxRequest
from megaflow.task_folders import REPOSITORY, BuildContext
from megaflow_server.images.builder import Builder, Builds
from megaflow_server.images.plan import Wanted

__all__ = ["Engine", "OnDemand"]

_log = logging.getLogger(__name__)

# What a build may take where the task does not say, and what a task may say; seconds.
_BUILD_SECONDS = 600.0
_BUILD_MOST = 3600.0


class Engine(Builds, Protocol):
    """What builds, and is let go of at the end."""

    def close(self) -> None: ...


class OnDemand:
    """Used from one event loop. Each image is built once, however many ask for it.

    Args:
        open_engine: opens what builds, when it is first needed; None where nothing is to be built.
    """

    def __init__(self, open_engine: Callable[[], Engine] | None = None) -> None:
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._builder: Builder | None = None
        self._step: dict[str, str] = {}

    async def have(self, request: SandboxRequest) -> None:
        """Have the image of a request at hand, where it is one that is built, and may be.

        What is not built here is left to whoever makes the sandbox: it is fetched, or refused. A build goes on
        where nobody waits for it any more, so that it is there for whoever asks next.

        Raises:
            NotFound, InvalidArgument: there is no such folder, or no Dockerfile in it.
            FailedPrecondition: a step of the build failed, with its last lines; or what is in the folder has
                changed since the request was made; or it may take longer than any build that is asked for.
            DeadlineExceeded: it took longer than it may.
            Unavailable: what it is built on cannot be fetched.
        """
        image, folder = request.image, request.context
        if self._open_engine is None or image is None or folder is None:
            return
        if not image.startswith(f"{REPOSITORY}:"):
            return
        if self._engine is None or self._builder is None:
            self._engine = self._open_engine()
            self._builder = Builder(self._engine)
        if image not in self._step and await self._engine.has(image):
            return
        wanted = await asyncio.to_thread(_wanted, image, folder, request.build_timeout)
        outcome = await self._builder.have(wanted, self._tell)
        self._step.pop(image, None)
        if outcome.error is not None:
            # A new one for each who waits: raising it adds to its traceback.
            raise type(outcome.error)(outcome.error.message, retry_after=outcome.error.retry_after)
        if outcome.how == "built":
            _log.info("image %s: built in %.1f s", image, outcome.seconds)

    def step(self, request: SandboxRequest) -> str | None:
        """What is being done for the image of a request; None for nothing."""
        return self._step.get(request.image or "")

    async def close(self) -> None:
        """Stop what is being built, and let go of what builds."""
        if self._builder is not None:
            await self._builder.close()
        if self._engine is not None:
            self._engine.close()

    def _tell(self, image: str, step: str) -> None:
        if image not in self._step:
            _log.info("image %s: it is not there, and is built", image)
        self._step[image] = step
        _log.info("image %s: %s", image, step)


def _wanted(image: str, folder: str, seconds: float | None) -> Wanted:
    if seconds is not None and seconds > _BUILD_MOST:
        raise FailedPrecondition(
            f"image={image!r}: environment.build_timeout_sec={seconds:g}: what is built when it is asked for takes "
            f"{_BUILD_MOST:g} s at most; build it before, with `megaflow images build TASKS`"
        )
    context = BuildContext(Path(folder))
    if context.image != image:
        raise FailedPrecondition(
            f"image={image!r}: what it is built from, {folder}, has changed since it was asked for; make the "
            "environment anew"
        )
    return Wanted(image, context, seconds or _BUILD_SECONDS, [folder])
