"""Models behind a server: asked there, and answering here as if they were local; blocking, and awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import grpc

from megaflow.calls.money import Price
from megaflow.connection import Connection
from megaflow.errors import DeadlineExceeded, InvalidArgument, Unavailable
from megaflow.generation import (
    Assembler,
    Completion,
    Event,
    Message,
    Request,
    Sampling,
    Text,
    Tool,
    WeightVersion,
)
from megaflow.job_calls import Opened
from megaflow.model import Model
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.model_events import read_event, read_version
from megaflow.protocol.model_requests import write_request
from megaflow.transport.chunks import CHUNK_BYTES
from megaflow.transport.io import run

__all__ = ["Asked", "AsyncRemoteModel", "ModelInfo", "RemoteModel"]

Asked: TypeAlias = Request | str | Sequence[Message] | Sequence[int]
"""A whole request, what a user says, a conversation, or a prompt as token ids."""


@dataclass(frozen=True)
class ModelInfo:
    """A model of a server's configuration.

    Attributes:
        name: what it is asked for by.
        kind: such as "vllm".
        model: what it calls itself.
        price: None where what its calls cost is not known.
        state: "paused" while a trainer holds new calls back.
        weight_version: None where it has none.
    """

    name: str
    kind: str
    model: str
    price: Price | None
    state: Literal["serving", "paused"]
    weight_version: WeightVersion | None

    @classmethod
    def all_of(cls, answer: pb.ListModelsResponse) -> list[ModelInfo]:
        """Those of a server's answer, by name."""
        return sorted(map(cls._of, answer.models), key=lambda info: info.name)

    @classmethod
    def _of(cls, listing: pb.ModelListing) -> ModelInfo:
        state = cast('Literal["serving", "paused"]', listing.state)
        version = read_version(listing.weight_version)
        return cls(listing.name, listing.kind, listing.model, _price(listing), state, version)


def _price(listing: pb.ModelListing) -> Price | None:
    if not listing.HasField("price"):
        return None
    price = listing.price
    cached = price.cached_input_per_million if price.HasField("cached_input_per_million") else None
    return Price(price.input_per_million, price.output_per_million, cached)


class _Remote:
    """What both have: where it is asked, and what of.

    Attributes:
        name: of the server's configuration.
    """

    def __init__(self, name: str, opened: Opened, timeout: float | None) -> None:
        if not name or not isinstance(name, str):
            raise InvalidArgument(f"model={name!r}: give the name of one of the server's models")
        if timeout is not None and not timeout > 0:
            raise InvalidArgument(f"timeout={timeout!r}: give more than 0 seconds, or None")
        self.name = name
        self._opened = opened
        self._timeout = timeout

    def _call(self, connection: Connection, request: Request, *, whole: bool) -> Any:
        written = write_request(request, whole=whole)
        if (size := written.ByteSize()) > CHUNK_BYTES:
            raise InvalidArgument(
                f"messages: the request is {size} bytes, and the wire takes {CHUNK_BYTES}: send less, or images by URL"
            )
        return connection.generate(written, self._timeout)

    def _request(self, asked: Asked, sampling: Sampling | None, tools: Sequence[Tool]) -> Request:
        if isinstance(asked, Request):
            if sampling is not None or tools:
                raise InvalidArgument(
                    "sampling, tools: are the request's own; give them to the Request, or ask without one"
                )
            return replace(asked, model=self.name)
        more: dict[str, Any] = {"sampling": sampling or Sampling(), "tools": tuple(tools)}
        if isinstance(asked, str):
            return Request(self.name, (Message("user", (Text(asked),)),), **more)
        if asked and not any(isinstance(each, Message) for each in asked):
            return Request(self.name, prompt=cast("tuple[int, ...]", tuple(asked)), **more)
        return Request(self.name, cast("tuple[Message, ...]", tuple(asked)), **more)

    def _failed(self, connection: Connection, error: grpc.RpcError) -> Exception:
        status, _ = failures.status_and_details(error)
        late = status is grpc.StatusCode.DEADLINE_EXCEEDED and failures.message_of(error) is None
        if late and self._timeout is not None:
            return DeadlineExceeded(
                f"timeout={self._timeout:g}: model {self.name!r} had not answered by then; the call was given up"
            )
        return connection.failed(error)

    def _ended(self) -> Unavailable:
        return Unavailable(
            f"the call of model {self.name!r} was cut off: its client was closed, or its server ended"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class _Answer:
    """An answer that comes: its events, put together."""

    def __init__(self, name: str) -> None:
        self._assembler = Assembler(name)
        self._named = False

    def take(self, response: pb.GenerateResponse) -> Iterator[Event]:
        """The next events."""
        if not self._named:
            self._assembler, self._named = Assembler(response.model), True
        for each in response.events:
            if (event := read_event(each)) is not None:
                self._assembler.add(event)
                yield event

    @property
    def over(self) -> bool:
        return self._assembler.finish is not None

    def completion(self) -> Completion:
        return self._assembler.completion()


class RemoteModel(_Remote):
    """A model behind a server, for blocking callers; `Client.model` makes it, and its client's end ends it."""

    def generate(
        self, asked: Asked, *, sampling: Sampling | None = None, tools: Sequence[Tool] = ()
    ) -> Completion:
        """The whole answer.

        Args:
            asked: a `Request`, whose model is this one whatever it says; a text, which is one message of a user's;
                messages; or the token ids of a prompt.
            sampling, tools: of what is no `Request`.

        Raises:
            InvalidArgument: names the field that is wrong.
            NotFound: the server has no model of this name.
            FailedPrecondition: it has none at all.
            BudgetExhausted, ResourceExhausted: the tenant's money of the day is spent, or it calls too fast, or the
                model is busy; `retry_after` says when to come back.
            Unavailable, DeadlineExceeded: the model failed, or the server did, or `timeout` passed.
        """
        answer = _Answer(self.name)
        for _ in self._events(self._request(asked, sampling, tools), answer, whole=True):
            pass
        return answer.completion()

    def stream(
        self, asked: Asked, *, sampling: Sampling | None = None, tools: Sequence[Tool] = ()
    ) -> Iterator[Event]:
        """The answer's events as they come, `Finish` last; else as `generate`.

        Closing the iterator early gives the call up.
        """
        request = self._request(asked, sampling, tools)
        return self._events(request, _Answer(self.name), whole=False)

    def _events(self, request: Request, answer: _Answer, *, whole: bool) -> Iterator[Event]:
        connection = run(self._opened())
        call = self._call(connection, request, whole=whole)
        try:
            for response in call:
                yield from answer.take(response)
        except grpc.RpcError as error:
            failed = self._failed(connection, error)
            raise failed from failed.__cause__
        finally:
            call.cancel()
        if not answer.over:
            raise self._ended()


class AsyncRemoteModel(_Remote, Model):
    """A model behind a server, awaited, and wherever a `megaflow.Model` is; `AsyncClient.model` makes it.

    Thousands of calls at once are as many streams of one connection. Its client's end ends it.
    """

    async def generate(
        self, asked: Asked, *, sampling: Sampling | None = None, tools: Sequence[Tool] = ()
    ) -> Completion:
        """The whole answer; takes and raises what `RemoteModel.generate` does."""
        answer = _Answer(self.name)
        request = self._request(asked, sampling, tools)
        async with aclosing(self._events(request, answer, whole=True)) as events:
            async for _ in events:
                pass
        return answer.completion()

    def stream(
        self, asked: Asked, *, sampling: Sampling | None = None, tools: Sequence[Tool] = ()
    ) -> AsyncGenerator[Event, None]:
        """The answer's events as they come, `Finish` last; closing the iterator early gives the call up."""
        request = self._request(asked, sampling, tools)
        return self._events(request, _Answer(self.name), whole=False)

    async def _events(
        self, request: Request, answer: _Answer, *, whole: bool
    ) -> AsyncGenerator[Event, None]:
        connection = await self._opened()
        call = self._call(connection, request, whole=whole)
        try:
            async for response in call:
                for event in answer.take(response):
                    yield event
        except grpc.RpcError as error:
            failed = self._failed(connection, error)
            raise failed from failed.__cause__
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._ended() from None  # gRPC says so of a call that either end cancelled
        finally:
            call.cancel()
        if not answer.over:
            raise self._ended()
