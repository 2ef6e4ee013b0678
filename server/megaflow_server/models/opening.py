"""Sessions of models over HTTP: `POST /sessions` opens one, `GET` and `DELETE /sessions/TOKEN` look and end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from megaflow_server.gateway.auth import SESSIONS, Principal
from megaflow_server.models.answers import answered, caller
from megaflow_server.models.requests import read
from megaflow_server.models.service import ModelService
from megaflow_server.models.sessions import ModelSession

__all__ = ["add_routes"]


def add_routes(
    app: web.Application, service: ModelService, principal: Callable[[str], Principal]
) -> None:
    """Add the routes.

    Args:
        principal: whose token this is; raises Unauthenticated.
    """
    opening = _Opening(service, principal)
    app.router.add_post("/sessions", answered(opening.open))
    app.router.add_get("/sessions/{token}", answered(opening.look))
    app.router.add_delete("/sessions/{token}", answered(opening.close))


class _Opening:
    def __init__(self, service: ModelService, principal: Callable[[str], Principal]) -> None:
        self._service = service
        self._principal = principal

    async def open(self, http: web.Request) -> web.Response:
        owner = self._owner(http)
        opened = await self._service.open(owner, read(await http.read()))
        root = f"{http.scheme}://{http.host}/sessions/{opened.token}"
        # As programs of the one and of the other dialect take it.
        urls = {"openai": f"{root}/v1", "anthropic": root}
        answer = {"token": opened.token, "base_urls": urls, "trajectory": opened.trajectory}
        return web.json_response(answer, status=201)

    async def look(self, http: web.Request) -> web.Response:
        session = self._service.find(self._owner(http), http.match_info["token"])
        return web.json_response(_told(session))

    async def close(self, http: web.Request) -> web.Response:
        token = http.match_info["token"]
        session = self._service.find(self._owner(http), token)
        self._service.sessions.close(token)
        return web.json_response(_told(session))

    def _owner(self, http: web.Request) -> str:
        """Who asks, by the token of a principal: a session's own opens no sessions."""
        return caller(http, self._principal, SESSIONS).name


def _told(session: ModelSession) -> dict[str, Any]:
    """What a session is and has spent."""
    spent = session.budgets[0]
    return {
        "rollout_id": session.rollout_id,
        "attempt": session.attempt,
        "models": {role: model.name for role, model in session.models.items()},
        "calls": spent.calls,
        "tokens": spent.tokens,
        # In part is not in all.
        "cost": None if spent.unknown else float(spent.cost),
        "known_cost": float(spent.cost),
    }
