"""How a service answers: with a message, or with one of our errors."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from megaflow.errors import MegaflowError
from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.workers import RemoteRefusal

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


async def answer(context: Context, made: Awaitable[T]) -> T:
    """The answer, or the call ended with the error that kept it from being made."""
    try:
        return await made
    except RemoteRefusal as refusal:
        await _abort(context, refusal.message)
    except MegaflowError as error:
        await _abort(context, failures.to_message(error))


async def _abort(context: Context, message: pb.Error) -> NoReturn:
    await context.abort(
        failures.status_of(message),
        message.message[:500],
        trailing_metadata=failures.to_metadata(message),
    )
    raise AssertionError("abort returned")
