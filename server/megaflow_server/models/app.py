"""The HTTP API of the Model Service, as an aiohttp application: four dialects, each under two roots.

A session's token stands in the path (`/sessions/TOKEN/v1/…`), or is the API key (`Authorization: Bearer`, or
`x-api-key`) under `/v1/…`. Where the path has one, it counts, and the key is not looked at: programs that
cannot leave the key out send anything.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web

from megaflow.dialects import DIALECTS, Dialect, Stamp, Writer, http_status
from megaflow.errors import (
    InvalidArgument,
    MegaflowError,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
)
from megaflow.generation import Event
from megaflow_server.models.call import Call
from megaflow_server.models.sessions import ModelSession, ModelSessions

__all__ = ["MAX_BODY", "add_routes", "application", "runner"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Bytes of a request.
MAX_BODY = 64 * 1024 * 1024
_ROOTS = ("/v1", "/sessions/{token}/v1")


def application(
    sessions: ModelSessions,
    *,
    max_body: int = MAX_BODY,
    max_calls: int = 10_000,
    write_timeout: float = 60.0,
) -> web.Application:
    """The application; serve it by `runner`.

    Args:
        max_body: bytes of a request.
        max_calls: under way at once; one more is told to come back.
        write_timeout: seconds that a reader of a stream may take nothing before its call is given up.
    """
    app = web.Application(client_max_size=max_body)
    add_routes(app, sessions, max_calls=max_calls, write_timeout=write_timeout)
    return app


def add_routes(
    app: web.Application,
    sessions: ModelSessions,
    *,
    max_calls: int = 10_000,
    write_timeout: float = 60.0,
) -> None:
    """Add the API to an application that serves more than models; see `application` and `runner`."""
    gateway = _Gateway(sessions, max_calls, write_timeout)
    for root in _ROOTS:
        for dialect in DIALECTS:
            app.router.add_post(root + dialect.path, gateway.handler(dialect))
        app.router.add_get(root + "/models", gateway.models)
        app.router.add_get(root + "/models/{model}", gateway.model)


def runner(app: web.Application) -> web.AppRunner:
    """A runner that gives a call up when its caller goes away, and logs no paths: tokens stand in them."""
    return web.AppRunner(app, handler_cancellation=True, access_log=None)


class _Gateway:
    def __init__(self, sessions: ModelSessions, max_calls: int, write_timeout: float) -> None:
        self._sessions = sessions
        self._free = max_calls
        self._write_timeout = write_timeout

    def handler(self, dialect: Dialect) -> Handler:
        async def handle(http: web.Request) -> web.StreamResponse:
            try:
                return await self._call(http, dialect)
            except MegaflowError as error:
                return _failure(dialect, error)
            except web.HTTPRequestEntityTooLarge as error:
                return _failure(dialect, InvalidArgument(f"the body is too large: {error.text}"))

        return handle

    async def _call(self, http: web.Request, dialect: Dialect) -> web.StreamResponse:
        session = self._session(http)
        if self._free <= 0:
            raise ResourceExhausted("too many calls are under way", retry_after=1.0)
        self._free -= 1
        try:
            request = dialect.request(_parsed(await http.read()))
            call = Call(session, request, dialect.name)
            stamp = Stamp(request.model, call.id)
            if request.stream:
                return await self._stream(http, call, dialect.writer(request, stamp))
            answer = dialect.reply(request, await call.completion(), stamp)
            return _json(answer, 200, {"x-request-id": call.id})
        finally:
            self._free += 1

    def _session(self, http: web.Request) -> ModelSession:
        token = http.match_info.get("token")
        if token is None:
            kind, _, bearer = http.headers.get("Authorization", "").partition(" ")
            token = bearer.strip() if kind.lower() == "bearer" else None
            token = token or http.headers.get("x-api-key")
        if not token:
            raise Unauthenticated(
                "no token; give the session's as the API key or in the path, /sessions/TOKEN/v1"
            )
        return self._sessions.find(token)

    async def _stream(self, http: web.Request, call: Call, writer: Writer) -> web.StreamResponse:
        async with aclosing(call.events()) as events:
            # Before the first event nothing is said, so that a failure has a status of its own.
            first = await anext(events)
            response = web.StreamResponse(
                headers={
                    "Content-Type": "text/event-stream; charset=utf-8",
                    "Cache-Control": "no-cache",
                    "X-Accel-Buffering": "no",
                    "x-request-id": call.id,
                }
            )
            await response.prepare(http)
            try:
                await self._write(response, writer.begin() + writer.event(first))
                await self._rest(response, events, writer)
            except (ConnectionError, TimeoutError) as error:
                # Gone, or taking nothing: the answer's events are closed above, and so the call is given up.
                if http.transport is not None and isinstance(error, TimeoutError):
                    http.transport.abort()
                return response
        await response.write_eof()
        return response

    async def _rest(
        self, response: web.StreamResponse, events: AsyncGenerator[Event, None], writer: Writer
    ) -> None:
        try:
            async for event in events:
                if data := writer.event(event):
                    await self._write(response, data)
        except MegaflowError as error:
            await self._write(response, writer.fail(error))

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._write_timeout):
            await response.write(data)

    async def models(self, http: web.Request) -> web.Response:
        """The session's models, by role."""
        try:
            session = self._session(http)
        except MegaflowError as error:
            return _failure(DIALECTS[0], error)
        listed = [_listed(role) for role in session.models]
        ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"], "has_more": False}
        return _json({"object": "list", "data": listed, **ends})

    async def model(self, http: web.Request) -> web.Response:
        """One of them."""
        name = http.match_info["model"]
        try:
            session = self._session(http)
            if name not in session.models:
                known = ", ".join(sorted(session.models))
                raise NotFound(f"model: {name!r} is none of {known}")
        except MegaflowError as error:
            return _failure(DIALECTS[0], error)
        return _json(_listed(name))


def _listed(role: str) -> dict[str, Any]:
    """A model as both OpenAI's and Anthropic's clients read it."""
    return {
        "id": role,
        "object": "model",
        "created": 0,
        "owned_by": "megaflow",
        "type": "model",
        "display_name": role,
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(0)),
    }


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from error


def _failure(dialect: Dialect, error: MegaflowError) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return _json(dialect.failure(error), http_status(error), headers)


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return web.Response(
        body=data, status=status, headers=headers, content_type="application/json", charset="utf-8"
    )
