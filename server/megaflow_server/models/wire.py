"""The Model Service over the wire: calls of its models without a session, and what it says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Final

from megaflow.calls import Price
from megaflow.errors import DeadlineExceeded, Unavailable
from megaflow.generation import Event, Request, events
from megaflow.model import Trained
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.model_events import write_event, write_version
from megaflow.protocol.model_requests import read_request
from megaflow_server.models.call import Call
from megaflow_server.models.catalogue import ServedModel
from megaflow_server.models.service import ModelService

__all__ = ["generate", "listing"]

# What such a call is said to be spoken in.
_DIALECT: Final = "wire"
# Seconds that a reader of a stream may take nothing before its call is given up.
_WRITE_TIMEOUT: Final = 60.0

_Write = Callable[[pb.GenerateResponse], Awaitable[None]]


async def generate(
    service: ModelService, request: pb.GenerateRequest, owner: str, write: _Write
) -> None:
    """Answer a principal's call. Raises what `ModelService.call` and the model do, and InvalidArgument."""
    asked = read_request(request)
    with service.call(owner, asked) as session:
        call = Call(session, asked, _DIALECT)
        if request.whole:
            whole = await call.completion()
            await _sent(write, asked, whole.model, events(whole))
            return
        name = service.model(asked.model).model.name
        async with aclosing(call.events()) as coming:
            async for event in coming:
                await _sent(write, asked, name, [event])
                name = ""


async def _sent(write: _Write, asked: Request, name: str, some: Iterable[Event]) -> None:
    try:
        response = pb.GenerateResponse(model=name, events=map(write_event, some))
    except (TypeError, ValueError) as error:
        raise Unavailable(f"model {asked.model!r} answered what cannot be sent: {error}") from error
    try:
        async with asyncio.timeout(_WRITE_TIMEOUT):
            await write(response)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the reader of this answer took nothing for {_WRITE_TIMEOUT:g} s"
        ) from None


def listing(served: ServedModel) -> pb.ModelListing:
    """What clients are told of a model."""
    model, price = served.model, served.price
    trained = model if isinstance(model, Trained) else None
    return pb.ModelListing(
        name=served.name,
        kind=served.kind,
        model=model.name,
        price=None if price is None else _price(price),
        state="paused" if trained is not None and trained.paused else "serving",
        weight_version=write_version(trained.weight_version if trained is not None else None),
    )


def _price(price: Price) -> pb.ModelPrice:
    return pb.ModelPrice(
        input_per_million=price.input_per_million,
        output_per_million=price.output_per_million,
        cached_input_per_million=price.cached_input_per_million,
    )
