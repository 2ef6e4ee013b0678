"""The service of models: what clients ask of the Model Service without a session of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from megaflow.errors import FailedPrecondition
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow_server.gateway.calls import Context, answer

if TYPE_CHECKING:
    from megaflow_server.models.service import ModelService


class ModelsService(pb_grpc.ModelsServicer):
    """See megaflow.proto for what each call does.

    What answers is imported by the first call: a gateway without models starts without it.

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
                "[models.NAME] in its configuration; one that keeps tasks answers with --http, or with --serve "
                "environments,models"
            )
        return service

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        async def listed() -> pb.ListModelsResponse:
            from megaflow_server.models.wire import listing

            return pb.ListModelsResponse(models=map(listing, self._models.served()))

        return await answer(context, listed())

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        async def generated() -> None:
            from megaflow_server.models.wire import generate

            await generate(self._models, request, self._caller(), context.write)

        await answer(context, generated())
