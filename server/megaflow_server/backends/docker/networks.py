"""What containers reach: nothing, or the network of their scope, on which they do not see each other."""

from __future__ import annotations

import asyncio
import logging

from megaflow.errors import Unavailable
from megaflow_server.backends.base import Network
from megaflow_server.backends.docker import names
from megaflow_server.backends.docker.calls import Calls
from megaflow_server.backends.docker.failures import EngineRefusal

__all__ = ["network_name", "public_network", "remove_unused", "switch"]

_log = logging.getLogger(__name__)

# The engine's own, of whom has no network.
_NONE = "none"
# How long whoever ends waits for an engine that says nothing.
_REMOVE_SECONDS = 5.0


def network_name(scope: str) -> str:
    """The name of the network that stands for "public"."""
    return f"{scope}-public"


async def public_network(calls: Calls, scope: str) -> str:
    """The network on which containers reach what their host reaches, and not each other; made where it is not."""
    name = network_name(scope)
    try:
        await calls("inspect_network", name)
        return name
    except EngineRefusal as error:
        if error.status != 404:
            raise
    try:
        await calls(
            "create_network",
            name,
            driver="bridge",
            check_duplicate=True,
            options={"com.docker.network.bridge.enable_icc": "false"},
            labels={names.SCOPE: scope},
        )
    except EngineRefusal as error:
        if error.status != 409:  # somebody was faster
            raise
    return name


async def remove_unused(calls: Calls, scope: str) -> None:
    """Remove the network of a scope, unless something is on it: engines have room for a few dozen of them."""
    try:
        async with asyncio.timeout(_REMOVE_SECONDS):
            await calls("remove_network", network_name(scope))
    except EngineRefusal as error:
        if error.status not in (403, 404):  # in use, or not there
            _log.warning("network %s is left: %s", network_name(scope), error.message)
    except (Unavailable, TimeoutError) as error:
        _log.debug("network %s may be left: %s", network_name(scope), error)


async def switch(calls: Calls, scope: str, container: str, network: Network) -> None:
    """Have a running container reach this and nothing else, from now on; what it has open to elsewhere breaks.

    Where it fails half way, the container reaches nothing.

    Raises:
        EngineRefusal: the engine said no.
        Unavailable: the engine did something else.
    """
    wanted = _NONE if network == "none" else await public_network(calls, scope)
    if await _networks(calls, container) == {wanted}:
        return
    for name in await _networks(calls, container):
        await calls("disconnect_container_from_network", container, name)
    await calls("connect_container_to_network", container, wanted)
    found = await _networks(calls, container)
    if found != {wanted}:
        raise Unavailable(f"the Docker Engine has it in {', '.join(sorted(found)) or 'no network'}")


async def _networks(calls: Calls, container: str) -> set[str]:
    inspected = await calls("inspect_container", container)
    return set(inspected["NetworkSettings"]["Networks"])
