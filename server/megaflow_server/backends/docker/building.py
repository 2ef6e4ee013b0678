"""Builds images on the engine, by its own builder: any engine from 20.10 on has that, without buildx."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import IO, Any
from urllib.parse import urlencode

from megaflow.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    MegaflowError,
    NotFound,
    ResourceExhausted,
)
from megaflow_server.backends.base import Progress
from megaflow_server.backends.docker import names
from megaflow_server.backends.docker.calls import Calls
from megaflow_server.backends.docker.failures import EngineRefusal, refusal
from megaflow_server.backends.docker.images import Pull
from megaflow_server.backends.docker.isolation import Engine, build_limits
from megaflow_server.backends.docker.options import DockerOptions
from megaflow_server.backends.docker.pulling import Images
from megaflow_server.backends.docker.wire import EngineSocket
from megaflow_server.quantities import shown

__all__ = ["DockerBuilds"]

# Lines of a build that failed that its error repeats.
_TAIL = 20
# How what an engine says of a step ends that was killed, as by a limit of memory.
_KILLED = "returned a non-zero code: 137"


class DockerBuilds:
    """Images of one engine; use it from one event loop, and `close` it there.

    Raises:
        FailedPrecondition: no engine answers, one that is too old, or one of another host.
    """

    def __init__(self, options: DockerOptions | None = None) -> None:
        options = options or DockerOptions()
        self._calls = Calls(options)
        self._socket = EngineSocket(options.socket, self._calls.version)
        self._images = Images(self._calls, self._socket, options)
        self._options = options

    def close(self) -> None:
        self._calls.close()

    async def has(self, image: str) -> bool:
        """Whether the engine has an image of this name."""
        try:
            await self._calls("inspect_image", image)
        except EngineRefusal as error:
            if error.status == 404:
                return False
            raise refusal(f"image={image!r}", error) from error
        return True

    async def prepare(self, image: str, progress: Progress | None = None) -> None:
        """Have an image at hand; see `Backend.prepare`."""
        await self._images.prepare(image, progress)

    async def build(
        self,
        image: str,
        context: IO[bytes],
        *,
        timeout: float,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Build an image, with the limits of the profile as far as builders have such.

        Args:
            context: a tar with a Dockerfile, a file that is at its beginning.
            timeout: seconds; then, and where its caller is cancelled, the engine stops.
            progress: told of each of its steps.

        Raises:
            FailedPrecondition: a step of it failed; with its last lines. Or the engine cannot limit it.
            NotFound: what it is built on is not to be had.
            Unavailable: its registry cannot be reached.
            DeadlineExceeded: it took too long.
        """
        labels = json.dumps(names.build_labels())
        engine = Engine.of(await self._calls("info"), self._options.socket)
        profile, network = self._options.profile, self._options.build_network
        limits = build_limits(f"image={image!r}", profile, network, engine)
        query = urlencode({"t": image, "rm": "1", "forcerm": "1", "labels": labels, **limits})
        tail: deque[str] = deque(maxlen=_TAIL)
        try:
            async with (
                asyncio.timeout(timeout),
                self._socket.objects("POST", f"/build?{query}", tar=context) as events,
            ):
                await _follow(image, events, tail, progress or _nobody, limits.get("memory"))
        except EngineRefusal as error:
            raise _failure(image, error.message, tail) from error
        except TimeoutError:
            raise DeadlineExceeded(
                f"image={image!r} was not built within {timeout:g} s (environment.build_timeout_sec)"
                f"{_shown(tail)}"
            ) from None
        if not await self.has(image):
            raise FailedPrecondition(f"image={image!r}: the engine built nothing{_shown(tail)}")


async def _follow(
    image: str,
    events: AsyncIterator[dict[str, Any]],
    tail: deque[str],
    progress: Callable[[str], None],
    memory: int | None,
) -> None:
    async for event in events:
        if "error" in event:
            text = str(event["error"])
            if memory is not None and text.endswith(_KILLED):
                text += (
                    f" (SIGKILL: it may have needed more memory than the {shown(memory)} of the profile; choose "
                    "another as [docker] profile)"
                )
            raise _failure(image, text, tail)
        said = str(event.get("stream") or event.get("status") or "").strip()
        if not said:
            continue
        tail.extend(said.splitlines())
        if said.startswith("Step "):
            progress(said.splitlines()[0])


def _failure(image: str, text: str, tail: deque[str]) -> MegaflowError:
    """What was built on may be missing, or its registry; else the Dockerfile is at fault."""
    message = f"image={image!r} cannot be built: {text}{_shown(tail)}"
    cause = Pull(image).failure(text)
    is_step = "returned a non-zero code" in text
    if not is_step and (isinstance(cause, NotFound | ResourceExhausted) or "dial tcp" in text):
        return type(cause)(message, retry_after=cause.retry_after)
    return FailedPrecondition(message)


def _shown(tail: deque[str]) -> str:
    return "\nThe last lines of its build:\n" + "\n".join(tail) if tail else ""


def _nobody(said: str) -> None:
    """Who does not want to know."""
