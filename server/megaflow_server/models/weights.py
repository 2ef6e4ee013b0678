"""A trainer's hand on the engines, over HTTP: calls are held back, weights updated, calls go on.

`POST /models/NAME/pause`, `/weights` and `/resume`; `GET /models/NAME` says how it stands. For tokens with the scope
`admin`, since models are everybody's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.model import Trained
from megaflow_server.gateway.auth import ADMIN, Principal
from megaflow_server.models.answers import Handler, answered, caller
from megaflow_server.models.catalogue import ServedModel
from megaflow_server.models.service import ModelService

__all__ = ["add_routes"]


def add_routes(
    app: web.Application, service: ModelService, principal: Callable[[str], Principal]
) -> None:
    """Add the routes.

    Args:
        principal: whose token this is; raises Unauthenticated.
    """

    def admitted(act: Callable[[ServedModel, dict[str, Any]], Awaitable[object]]) -> Handler:
        async def handle(http: web.Request) -> web.Response:
            caller(http, principal, ADMIN)
            served = service.model(http.match_info["name"])
            await act(served, _fields(await http.read()))
            return web.json_response(_told(served))

        return answered(handle)

    app.router.add_get("/models/{name}", admitted(_look))
    app.router.add_post("/models/{name}/pause", admitted(_pause))
    app.router.add_post("/models/{name}/weights", admitted(_weights))
    app.router.add_post("/models/{name}/resume", admitted(_resume))


async def _look(served: ServedModel, given: Mapping[str, Any]) -> None:
    _only(given)


async def _pause(served: ServedModel, given: Mapping[str, Any]) -> None:
    _only(given, "mode")
    await _trained(served).pause(**given)


async def _resume(served: ServedModel, given: Mapping[str, Any]) -> None:
    _only(given)
    await _trained(served).resume()


async def _weights(served: ServedModel, given: dict[str, Any]) -> None:
    """What is beside the version is the engine's own, and passed through."""
    version = given.pop("version", None)
    if isinstance(version, bool) or not isinstance(version, int | str):
        raise InvalidArgument(f"version: {version!r}; give a whole number, or a text")
    await _trained(served).update_weights(version, **given)


def _trained(served: ServedModel) -> Trained:
    if not isinstance(served.model, Trained):
        raise FailedPrecondition(
            f"model {served.name!r} is of the kind {served.kind!r}, whose weights nobody updates"
        )
    return served.model


def _fields(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InvalidArgument("the body is no JSON object")
    return given


def _only(given: Mapping[str, Any], *known: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise InvalidArgument(
            f"{unknown[0]}: unknown field; known are {', '.join(known) or 'none'}"
        )


def _told(served: ServedModel) -> dict[str, Any]:
    model = served.model
    told: dict[str, Any] = {"name": served.name, "kind": served.kind, "model": model.name}
    if isinstance(model, Trained):
        told |= {"paused": model.paused, "weight_version": model.weight_version}
    return told
