"""The HTTP port: `/healthz` and `/readyz` for whoever asks, `/metrics` with a token, and the models' API."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType

from aiohttp import web

from megaflow.errors import InvalidArgument, MegaflowError, PermissionDenied, Unauthenticated
from megaflow.transport.address import split_host_port
from megaflow_server.gateway.auth import ADMIN, Principal
from megaflow_server.gateway.listeners import Access
from megaflow_server.models import app as calling
from megaflow_server.models import opening, weights
from megaflow_server.models.app import MAX_BODY
from megaflow_server.models.service import ModelService
from megaflow_server.observability import metrics
from megaflow_server.orchestrator.service import Orchestrator

__all__ = ["HttpPort"]

# Metrics tell of every tenant; whoever may only read reads its own tasks.
_SCOPES = frozenset({ADMIN})
# Seconds for answers that are under way when it ends.
_SHUTDOWN = 2.0
# Bytes of a request's line and headers.
_LONGEST_LINE = 8190


class HttpPort:
    """A listener; an asynchronous context manager.

    Args:
        listen: host:port; port 0 chooses a free one.
        access: who may connect there: see `Access.target`.
        principal: whose token this is; raises Unauthenticated.
        ready: whether the server takes new work.
        orchestrator: whose metrics are told; None: the server keeps no tasks, and has none.
        models: whose sessions are opened and called here; None: the server has no models.

    Raises (on entering):
        InvalidArgument: other machines could connect there without what that takes, or it cannot be bound.
    """

    def __init__(
        self,
        listen: str,
        access: Access,
        *,
        principal: Callable[[str], Principal],
        ready: Callable[[], bool],
        orchestrator: Orchestrator | None,
        models: ModelService | None = None,
    ) -> None:
        self._listen = listen
        self._access = access
        self._principal = principal
        self._ready = ready
        self._orchestrator = orchestrator
        self._models = models
        self.address = ""

    async def __aenter__(self) -> HttpPort:
        target = self._access.target(self._listen)
        if target.startswith("unix:"):
            raise InvalidArgument(f"http={self._listen!r}: give host:port")
        host, port = split_host_port(target, name="http")
        app = web.Application(middlewares=[_told], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._readiness),
                web.get("/metrics", self._metrics),
            ]
        )
        if self._models is not None:
            calling.add_routes(app, self._models.sessions)
            opening.add_routes(app, self._models, self._principal)
            weights.add_routes(app, self._models, self._principal)
        # A call whose caller goes away is given up. No paths are logged: tokens stand in them.
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            shutdown_timeout=_SHUTDOWN,
        )
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, host.strip("[]"), port, ssl_context=self._tls())
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise InvalidArgument(
                f"http={self._listen!r}: cannot be bound: {error.strerror}"
            ) from error
        bound = self._runner.addresses[0][1]
        self.address = f"{'https' if self._access.certificate else 'http'}://{host}:{bound}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    def _tls(self) -> ssl.SSLContext | None:
        certificate = self._access.certificate
        if certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.certificate, certificate.key)
        return context

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, request: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="this server takes nothing new: it ends\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        self._admit(request)
        if self._orchestrator is None:
            return web.Response(body=b"", headers={"Content-Type": metrics.CONTENT_TYPE})
        seen = await self._orchestrator.read(metrics.look)
        text = await asyncio.to_thread(metrics.exposition, seen, self._orchestrator.figures)
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    def _admit(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("show a token: the header `Authorization: Bearer TOKEN`")
        caller = self._principal(token.strip())
        if not caller.scopes & _SCOPES:
            raise PermissionDenied(
                f"/metrics tells of every tenant, which takes a token with the scope {ADMIN}; this one of "
                f"{caller.name} has {', '.join(sorted(caller.scopes))}"
            )


@web.middleware
async def _told(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Our errors as HTTP's."""
    try:
        return await handler(request)
    except Unauthenticated as error:
        return web.Response(
            status=401, text=f"{error.message}\n", headers={"WWW-Authenticate": "Bearer"}
        )
    except PermissionDenied as error:
        return web.Response(status=403, text=f"{error.message}\n")
    except MegaflowError as error:
        return web.Response(status=503, text=f"{error.message}\n")
