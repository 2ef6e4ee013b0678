"""Every call's gate: who calls, and whether they may; nothing of a refused call is decoded.

Health alone passes by: what balances the load, or restarts the server, has no token.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from megaflow.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MegaflowError,
    PermissionDenied,
    Unauthenticated,
)
from megaflow.protocol import envelopes, failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.auth import LOCAL, METHOD_SCOPES, Principal, acting_as
from megaflow_server.gateway.tokens import Tokens

# Seconds that a call has for its request.
FIRST_MESSAGE_TIMEOUT = 10.0

# Bytes of a request that are counted while everybody waits.
_SOON_COUNTED = 2**18

_REQUESTS: Mapping[str, Descriptor] = {
    f"/{service.full_name}/{method.name}": method.input_type
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

OPEN_SERVICE = "/grpc.health.v1.Health/"

Context = grpc.aio.ServicerContext[Any, Any]
# Quoted: at run time gRPC's class takes no parameters.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]
# Raises what a method's call by a principal is refused with, whatever its request.
Check: TypeAlias = Callable[[str, Principal, Context], Awaitable[None]]


async def refuse(context: Context, error: MegaflowError) -> NoReturn:
    """Ends a call with an error."""
    message = failures.to_message(error)
    await context.abort(
        failures.status_of(message),
        message.message[:500],
        trailing_metadata=failures.to_metadata(message),
    )
    raise AssertionError("abort returned")


class Authenticator:
    """Knows callers by the token that they show, or by the Unix socket that they came through.

    Attributes:
        tokens: those that are known now; another set may be put here at any time.
        way_out: what a caller without a token is told to do.
    """

    def __init__(self, tokens: Tokens, *, way_out: str) -> None:
        self.tokens = tokens
        self._way_out = way_out

    def identify(self, context: Context) -> Principal:
        """The caller. Raises Unauthenticated."""
        shown = [
            value for key, value in context.invocation_metadata() or () if key == "authorization"
        ]
        if not shown and context.peer().startswith("unix:"):
            return LOCAL  # the socket's folder, or its own mode, keeps others out
        if not shown:
            raise Unauthenticated(f"no token was shown: {self._way_out}")
        scheme, _, token = str(shown[0]).partition(" ")
        if len(shown) > 1 or scheme.lower() != "bearer" or not token:
            raise Unauthenticated(
                "the metadata `authorization` is to be given once, as `Bearer` and a token"
            )
        return self.tokens.principal(token.strip())

    def admit(self, method: str, context: Context) -> Principal:
        """The caller of this method. Raises Unauthenticated, and PermissionDenied for one who may not."""
        caller = self.identify(context)
        enough = METHOD_SCOPES.get(method, frozenset())
        if not caller.scopes & enough:
            raise PermissionDenied(
                f"{method} needs a token with the scope {' or '.join(sorted(enough)) or 'of none that there is'}; "
                f"this one of {caller.name} has {', '.join(sorted(caller.scopes))}"
            )
        return caller


class AuthenticationInterceptor(grpc.aio.ServerInterceptor):
    """Makes the caller the `principal()` of each call that it lets through.

    Args:
        check: asked before a request is read.
    """

    def __init__(self, authenticator: Authenticator, check: Check) -> None:
        self._authenticator = authenticator
        self._check = check

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN_SERVICE):
            return handler
        gate = _Gate(handler, details.method, self._authenticator, self._check)
        return gate.handler()


class _Gate:
    """A method's handler with authentication before it, and before the decoding of requests."""

    def __init__(
        self, handler: Handler, method: str, authenticator: Authenticator, check: Check
    ) -> None:
        self._inner = handler
        self._method = method
        self._authenticator = authenticator
        self._check = check

    def handler(self) -> Handler:
        """Takes even a single request as a stream of one: gRPC would wait for it before it asks us anything."""
        inner = self._inner
        if inner.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream, None, inner.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(self._unary, None, inner.response_serializer)

    async def _unary(self, requests: AsyncIterator[bytes], context: Context) -> Any:
        behaviour = (
            self._inner.stream_unary if self._inner.request_streaming else self._inner.unary_unary
        )
        caller, arguments = await self._enter(requests, context)
        with acting_as(caller):
            return await cast("Any", behaviour)(arguments, context)

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        inner = self._inner
        behaviour = inner.stream_stream if inner.request_streaming else inner.unary_stream
        caller, arguments = await self._enter(requests, context)
        with acting_as(caller):
            answers = cast("Any", behaviour)(arguments, context)
            if not hasattr(answers, "__aiter__"):
                await answers  # it writes to the context itself
                return
            async for answer in answers:
                await context.write(answer)

    async def _enter(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> tuple[Principal, Any]:
        try:
            caller = self._authenticator.admit(self._method, context)
            await self._check(self._method, caller, context)
            if not self._inner.request_streaming:
                return caller, await self._decode(await single(requests))
            if self._inner.request_deserializer is None:
                return caller, requests
            return caller, self._decoded(requests, context)
        except MegaflowError as error:
            await refuse(context, error)

    async def _decoded(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[Any]:
        async for request in requests:
            try:
                decoded = await self._decode(request)
            except InvalidArgument as error:
                await refuse(context, error)
            yield decoded

    async def _decode(self, request: bytes) -> Any:
        decode = cast("Callable[[bytes], Any]", self._inner.request_deserializer)
        check = functools.partial(
            envelopes.check, _REQUESTS[self._method], request, what="the request"
        )
        if len(request) > _SOON_COUNTED:
            await asyncio.to_thread(check)  # others are served meanwhile
        else:
            check()
        try:
            return decode(request)
        except DecodeError:
            raise InvalidArgument(f"what was sent to {self._method} is no request of its") from None


async def single(requests: AsyncIterator[bytes]) -> bytes:
    """The request of a call that has one."""
    try:
        async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT):
            async for request in requests:
                return request
    except TimeoutError:
        raise DeadlineExceeded(
            f"the request of the call did not come within {FIRST_MESSAGE_TIMEOUT:g} s"
        ) from None
    raise InvalidArgument("the call came without its request")
