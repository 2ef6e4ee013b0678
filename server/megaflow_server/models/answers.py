"""Who asks the Model Service over HTTP, and our errors as HTTP's."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from megaflow.dialects import http_status
from megaflow.errors import InvalidArgument, MegaflowError, PermissionDenied, Unauthenticated
from megaflow_server.gateway.auth import Principal

__all__ = ["Handler", "answered", "caller"]

Handler = Callable[[web.Request], Awaitable[web.Response]]


def caller(http: web.Request, principal: Callable[[str], Principal], scope: str) -> Principal:
    """Who asks.

    Args:
        principal: whose token this is; raises Unauthenticated.

    Raises:
        Unauthenticated: no token, or one that nobody knows.
        PermissionDenied: one without this scope.
    """
    scheme, _, token = http.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("show a token: the header `Authorization: Bearer TOKEN`")
    found = principal(token.strip())
    if scope not in found.scopes:
        raise PermissionDenied(
            f"this takes a token with the scope {scope}; this one of {found.name} has"
            f" {', '.join(sorted(found.scopes))}"
        )
    return found


def answered(handler: Handler) -> Handler:
    """A handler whose errors of ours are answers."""

    async def handle(http: web.Request) -> web.Response:
        try:
            return await handler(http)
        except web.HTTPRequestEntityTooLarge as error:
            return _failure(InvalidArgument(f"the body is too large: {error.text}"))
        except MegaflowError as error:
            return _failure(error)

    return handle


def _failure(error: MegaflowError) -> web.Response:
    body = {"error": {"code": type(error).__name__, "message": error.message}}
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return web.Response(
        text=json.dumps(body),
        status=http_status(error),
        headers=headers,
        content_type="application/json",
    )
