"""The engine's plain calls: the SDK's, each in one of a few threads, with its failures as our own errors."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.auth
import requests
from docker.errors import APIError, DockerException

from megaflow.errors import FailedPrecondition, Unavailable
from megaflow_server.backends.docker.failures import EngineRefusal
from megaflow_server.backends.docker.options import DockerOptions

__all__ = ["Calls", "credentials"]

# An engine does little at a time; further calls wait here, where they cost nothing.
_THREADS = 8
_PATIENT = 4
# How long the engine may be at a commit, or at a part of a copy, without a word.
_SLOW_SECONDS = 600.0
# How long a server that starts waits for the engine's first answer; seconds.
_FIRST_SECONDS = 10.0
# The oldest engine with everything that we need: 20.10.
_OLDEST = "1.41"

T = TypeVar("T")


class Calls:
    """The SDK's low-level client, for coroutines.

    Attributes:
        version: of the API that is spoken.
        engine: the engine's own version.

    Raises:
        FailedPrecondition: no engine answers, or one that is too old.
    """

    def __init__(self, options: DockerOptions) -> None:
        address = f"unix://{options.socket}"
        try:
            _try(options.socket)
            self._api = docker.APIClient(address, version="auto", timeout=_FIRST_SECONDS)
            self.version = str(self._api.api_version)
            self.engine = str(self._api.version()["Version"])
        except (OSError, DockerException) as error:  # of which requests' own are some
            raise FailedPrecondition(
                f"no Docker Engine answers at {address}: {error}; start one, or name its socket in DOCKER_HOST"
            ) from error
        if tuple(map(int, self.version.split("."))) < tuple(map(int, _OLDEST.split("."))):
            self._api.close()
            raise FailedPrecondition(
                f"the Docker Engine at {address} speaks API {self.version}; it takes {_OLDEST}, which "
                "20.10 and newer ones speak"
            )
        self._address = address
        self._api.timeout = options.call_timeout
        slow = max(options.call_timeout, _SLOW_SECONDS)
        self._slow = docker.APIClient(address, version=self.version, timeout=slow)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._patient = ThreadPoolExecutor(_PATIENT, thread_name_prefix="docker-slow")

    async def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the SDK's client by its name.

        Raises:
            EngineRefusal: the engine said no.
            Unavailable: it did not answer.
        """
        return await self.run(lambda api: getattr(api, name)(*args, **kwargs))

    async def run(self, function: Callable[[Any], T], *, slow: bool = False) -> T:
        """Have a function work with the SDK's client in a thread; it ends by itself where we are cancelled.

        Args:
            slow: for what may last, copies and commits: it takes none of the threads of the rest.
        """
        loop = asyncio.get_running_loop()
        threads, api = (self._patient, self._slow) if slow else (self._threads, self._api)
        try:
            return await loop.run_in_executor(threads, function, api)
        except APIError as error:
            status = error.response.status_code if error.response is not None else 500
            raise EngineRefusal(status, str(error.explanation or error)) from error
        except (requests.RequestException, DockerException) as error:
            _let_go(error)
            raise Unavailable(
                f"the Docker Engine at {self._address} does not answer: {error}"
            ) from None

    def close(self) -> None:
        """Let go of the engine; what a thread is at, it finishes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._patient.shutdown(wait=False, cancel_futures=True)
        self._api.close()
        self._slow.close()


def credentials(api: Any, repository: str) -> Mapping[str, str]:
    """The header with what the user's own Docker configuration has for the registry of an image."""
    registry, _ = docker.auth.resolve_repository_name(repository)
    header = docker.auth.get_config_header(api, registry)
    return {} if header is None else {"X-Registry-Auth": header.decode()}


def _try(path: Path) -> None:
    """Raise OSError where nobody listens: the SDK's message of that is a tale of three libraries."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_FIRST_SECONDS)
        connection.connect(str(path))


def _let_go(error: BaseException | None) -> None:
    """Drop what the frames of an error hold: the SDK's, of a socket that could not be connected, hold it open."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
