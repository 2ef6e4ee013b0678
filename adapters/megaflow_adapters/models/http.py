"""Requests to an upstream over aiohttp, and its failures as errors of ours.

What an upstream says of a failure is passed on without the key, and not at all where it refused the key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from pydantic import SecretStr

from megaflow.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MegaflowError,
    ResourceExhausted,
    Unavailable,
)
from megaflow_adapters.models.backoff import retry_after
from megaflow_adapters.models.settings import Settings

__all__ = ["AttemptFailed", "Upstream", "drain"]

_LARGEST_ANSWER = 256 * 1024 * 1024
_LARGEST_ERROR = 64 * 1024
# Seconds for the bytes that end a stream whose answer has come.
_TAIL = 0.5
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class AttemptFailed(Exception):
    """One attempt failed.

    Attributes:
        error: what the caller is told, if there is no other attempt.
        again: whether another may do better.
        blame: whether the replica is at fault.
    """

    def __init__(self, error: MegaflowError, *, again: bool, blame: bool = True) -> None:
        super().__init__(error.message)
        self.error = error
        self.again = again
        self.blame = blame


class Upstream:
    """The connections to one model's replicas."""

    def __init__(self, settings: Settings, key: SecretStr | None) -> None:
        self._settings = settings
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        # Made with the first call: it belongs to the event loop that runs then.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._settings.max_connections),
                auto_decompress=True,
                read_bufsize=2**16,
            )
        return self._session

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def post(
        self, url: str, body: object, seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with a status of success.

        Raises:
            AttemptFailed: for everything else, in the block too.
        """
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        timeout = aiohttp.ClientTimeout(
            total=seconds,
            sock_connect=self._settings.connect_timeout,
            sock_read=self._settings.idle_timeout,
        )
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        where = urlsplit(url).netloc
        try:
            async with self._open().post(
                url, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response, where)
                yield response
        except TimeoutError as error:
            late = DeadlineExceeded(f"{where}: no answer in time ({_seconds(timeout)})")
            raise AttemptFailed(late, again=True) from error
        except (aiohttp.ClientError, OSError) as error:
            gone = Unavailable(f"{where}: the connection failed: {self._clean(_reason(error))}")
            raise AttemptFailed(gone, again=True) from error
        except Unavailable as error:  # what came is not what it should be
            odd = Unavailable(f"{where}: {self._clean(error.message)}")
            raise AttemptFailed(odd, again=True) from error

    async def post_json(self, url: str, body: object, seconds: float) -> Any:
        """A whole answer, parsed."""
        async with self.post(url, body, seconds) as response:
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > _LARGEST_ANSWER:
                    raise Unavailable(f"an answer of over {_LARGEST_ANSWER} bytes")
            try:
                return json.loads(bytes(data))
            except ValueError as error:
                raise Unavailable("the answer is not JSON") from error

    async def _refusal(self, response: aiohttp.ClientResponse, where: str) -> AttemptFailed:
        status = response.status
        if status in (401, 403):
            told = Unavailable(
                f"{where}: HTTP {status}: the upstream refused the server's key for this model;"
                " see api_key_env"
            )
            return AttemptFailed(told, again=False)
        said = self._clean(_message(await response.content.read(_LARGEST_ERROR)))
        what = f"{where}: HTTP {status}: {said}"
        again = status in _AGAIN
        if status == 429:
            after = retry_after(response.headers.get("Retry-After"))
            return AttemptFailed(
                ResourceExhausted(what, retry_after=1.0 if after is None else after),
                again=True,
                blame=False,
            )
        if 400 <= status < 500 and not again and status != 404:
            return AttemptFailed(InvalidArgument(what), again=False, blame=False)
        return AttemptFailed(Unavailable(what), again=again)

    def _clean(self, text: str) -> str:
        key = self._key.get_secret_value() if self._key is not None else ""
        return text.replace(key, "[key]") if key else text


async def drain(response: aiohttp.ClientResponse) -> None:
    """Read a stream to its end, which has come or is about to: only then can its connection be used again."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_TAIL):
            async for _ in response.content.iter_any():
                pass


def _message(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        raw = json.loads(text)
    except ValueError:
        return text[:500]
    match raw:
        case {"error": {"message": str(said)}} | {"message": str(said)} | {"error": str(said)}:
            return said[:2000]
    return text[:500]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _seconds(timeout: aiohttp.ClientTimeout) -> str:
    return (
        f"{timeout.sock_connect:g} s to connect, {timeout.sock_read:g} s without a byte,"
        f" {timeout.total:.3g} s in all"
    )
