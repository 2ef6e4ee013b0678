"""Any upstream that speaks OpenAI's chat completions or completions; several are replicas of one model."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from megaflow.dialects import upstream as spelled
from megaflow.dialects.sse import Lines
from megaflow.errors import DeadlineExceeded, MegaflowError, ResourceExhausted, Unavailable
from megaflow.generation import Completion, Event, Finish, Request, events
from megaflow.model import Model
from megaflow_adapters.models import backoff
from megaflow_adapters.models.http import AttemptFailed, Upstream, drain
from megaflow_adapters.models.replicas import Replicas
from megaflow_adapters.models.settings import Settings, checked

__all__ = ["OpenAIModel"]


class OpenAIModel(Model):
    """A model behind one or several OpenAI-compatible servers.

    A call that fails is asked again, of another replica where there is one, as long as nothing of an answer
    was handed on and the failure is not the request's own. After that it is `Unavailable`, `DeadlineExceeded`
    or `ResourceExhausted`.

    Args:
        config: see `settings.Settings`; one that is wrong is InvalidArgument.
    """

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> OpenAIModel:
        """See `settings.Settings`."""
        return cls(**settings)

    def __init__(self, **config: Any) -> None:
        self.settings = checked(Settings, config)
        self.name = self.settings.model
        self._http = Upstream(self.settings, self.settings.key())
        self._replicas = Replicas(
            self.settings.base_urls,
            time.monotonic,
            cooldown=self.settings.cooldown,
            most=self.settings.max_per_replica,
        )
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._draw = random.Random()

    @property
    def loads(self) -> dict[str, int]:
        """Calls under way, by replica."""
        return self._replicas.loads

    async def close(self) -> None:
        """Let go of connections; calls under way fail."""
        await self._http.close()

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """The answer's events as they come."""
        await self._admitted()
        deadline = time.monotonic() + self.settings.total_timeout
        failed: list[str] = []
        while True:
            delivered = False
            replica = await self._start(request.rollout, failed, deadline)
            blame = False
            try:
                async with aclosing(self._once(replica, request, deadline)) as answer:
                    async for event in answer:
                        delivered = True
                        yield event
                return
            except AttemptFailed as failure:
                blame = failure.blame
                error = failure.error
                if delivered:
                    raise _broken(error) from failure
                failed.append(replica)
                seconds = self._pause(failure, len(failed), deadline)
                if seconds is None:
                    raise error from failure
            finally:
                self._finish(replica, blame)
            await asyncio.sleep(seconds)

    async def _admitted(self) -> None:
        """Return when calls may begin; engines whose weights change wait here."""

    def _pause(self, failure: AttemptFailed, attempts: int, deadline: float) -> float | None:
        """Seconds before the next attempt; None where there is none."""
        if not failure.again or attempts >= self.settings.attempts:
            return None
        seconds = backoff.wait(attempts, failure.error.retry_after, self._draw)
        return seconds if time.monotonic() + seconds < deadline else None

    async def _start(self, rollout: str | None, avoid: list[str], deadline: float) -> str:
        waited = False
        while (replica := self._replicas.start(rollout, avoid)) is None:
            await self._freed(deadline, first=waited)
            waited = True
        return replica

    async def _freed(self, deadline: float, *, first: bool) -> None:
        """Return when a call ended; `first` for one that was woken before, and came too late."""
        waiter = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(waiter)
        went_on = False
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await waiter
            went_on = True
        except TimeoutError as error:
            raise ResourceExhausted(
                f"model {self.name!r}: every replica had max_per_replica calls for"
                f" {self.settings.total_timeout:g} s",
                retry_after=1.0,
            ) from error
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not went_on:  # woken, and gone: the next may have it
                self._wake()

    def _finish(self, replica: str, blame: bool) -> None:
        self._replicas.finish(replica, failed=blame)
        self._wake()

    def _wake(self) -> None:
        """Let the one go on that has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _once(
        self, replica: str, request: Request, deadline: float
    ) -> AsyncGenerator[Event, None]:
        """One attempt at one replica."""
        url = replica + spelled.path(request)
        if not self._streams(request):
            for event in events(await self._whole(url, request, deadline)):
                yield event
            return
        lines, chunks, end = Lines(), spelled.Chunks(), None
        body = self._body(request, stream=True)
        async with self._http.post(url, body, deadline - time.monotonic()) as response:
            async for piece in response.content.iter_any():
                for data in lines.feed(piece):
                    for event in chunks.feed(data):
                        if isinstance(event, Finish):
                            end = event
                        else:
                            yield self._seen(event)
                if end is not None:
                    await drain(response)
                    break
            yield end or chunks.end()

    async def _whole(self, url: str, request: Request, deadline: float) -> Completion:
        body = self._body(request, stream=False)
        raw = await self._http.post_json(url, body, deadline - time.monotonic())
        try:
            return spelled.completion(raw, self.name)
        except Unavailable as error:
            raise AttemptFailed(error, again=True) from error

    def _streams(self, request: Request) -> bool:
        """Whether the upstream is asked for a stream."""
        return request.stream

    def _seen(self, event: Event) -> Event:
        """An event on its way from the upstream."""
        return event

    def _body(self, request: Request, *, stream: bool) -> dict[str, Any]:
        body = spelled.body(request, self.settings.model, stream=stream)
        if self.settings.max_tokens_field != "max_tokens" and "max_tokens" in body:
            body[self.settings.max_tokens_field] = body.pop("max_tokens")
        return body

    async def control(self, path: str, body: Mapping[str, Any]) -> list[Any]:
        """Post to each replica's own API, beside `/v1`; what each answered.

        Raises:
            Unavailable: one of them failed; others may have done it.
        """
        roots = [url.removesuffix("/v1") for url in self.settings.base_urls]
        seconds = self.settings.total_timeout
        calls = (self._http.post(root + path, body, seconds) for root in roots)
        return await asyncio.gather(*(_posted(call) for call in calls))


async def _posted(call: Any) -> Any:
    try:
        async with call as response:
            return await response.text()
    except AttemptFailed as failure:
        raise failure.error from failure


def _broken(error: MegaflowError) -> MegaflowError:
    """A stream that broke off: what was handed on cannot be taken back, so nobody asks again."""
    kind = DeadlineExceeded if isinstance(error, DeadlineExceeded) else Unavailable
    return kind(
        f"{error.message}; part of the answer had been handed on, so it was not asked again"
    )
