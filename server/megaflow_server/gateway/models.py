"""The service of models: what clients ask of the Model Service without a session of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from megaflow.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from megaflow.generation import Event, Request, events
from megaflow.model import Trained
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.protocol.model_events import write_event, write_version
from megaflow.protocol.model_requests import read_request
from megaflow_server.gateway.calls import Context, answer

if TYPE_CHECKING:
    from megaflow.calls import Price
    from megaflow_server.models.catalogue import ServedModel
    from megaflow_server.models.service import ModelService

# What a call is said to be spoken in, where its record or its budget asks.
_DIALECT: Final = "wire"
# Seconds that a reader of a stream may take nothing before its call is given up.
_WRITE_TIMEOUT: Final = 60.0

_Write = Callable[[pb.GenerateResponse], Awaitable[None]]


class ModelsService(pb_grpc.ModelsServicer):
    """See megaflow.proto for what each call does.

    Args:
        models: what answers; None where this server has no models.
        caller: the name of the principal of the running call: its tenant.
    """

    def __init__(
        self, models: Callable[[], ModelService | None], *, caller: Callable[[], str]
    ) -> None:
        self._maybe = models
        self._caller = caller

    @property
    def _models(self) -> ModelService:
        service = self._maybe()
        if service is None:
            raise FailedPrecondition(
                "this server answers no calls of models: ask one that `megaflow serve` was started for with a table "
                "[models.NAME] in its configuration; one that keeps tasks answers with --http, or with --serve models"
            )
        return service

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        async def listed() -> pb.ListModelsResponse:
            return pb.ListModelsResponse(models=map(_listing, self._models.served()))

        return await answer(context, listed())

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        await answer(context, self._generate(request, context.write))

    async def _generate(self, request: pb.GenerateRequest, write: _Write) -> None:
        # With the dialects, which a gateway without models starts without.
        from megaflow_server.models.call import Call

        service, asked = self._models, read_request(request)
        with service.call(self._caller(), asked) as session:
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


def _listing(served: ServedModel) -> pb.ModelListing:
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
