"""SIGKILL of the server, again and again: nothing of it is left, and its clients find the next one."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import pytest

from fault_points import Points, at_points
from fault_proxy import FaultProxy
from fault_scene import GRACE, LEASE, Client, scene, wait_for
from fault_sessions import Options
from fault_tally import Tally

# A client goes on looking for its session until its lease has run out, and once more for so long.
LOOKS = LEASE + 2.0
RECOVERY = 30.0
PATIENCE = 20.0

DIRECT = [
    Options("single", 0, daemon=True),
    Options("truncate", 100, asynchronous=True),
]
RELAYED = [
    Options("raise", 200, relayed=True, again=True),
    Options("single", 300, relayed=True, asynchronous=True, step_timeout=1.0),
]


@pytest.mark.long
@at_points("servers killed")
def test_servers_killed(at: Points) -> None:
    tally, chance = Tally("SIGKILL of the server"), at.chance()
    with scene() as here, FaultProxy() as proxy:
        clients = [here.client(proxy.address, sessions) for sessions in (DIRECT, RELAYED)]
        upcoming = here.server().serving()
        for _ in range(at.count):
            server, upcoming = upcoming, here.server()
            proxy.redirect(server.address)
            begun = time.monotonic()
            if chance.random() < 0.5:  # while sessions are opened, else while they step
                time.sleep(chance.uniform(0.0, 0.7))
            else:
                for client in clients:
                    tally.recoveries.append(client.steps_again(begun, RECOVERY))
                time.sleep(chance.uniform(0.0, 0.3))
            steps = {client: [one.steps for one in client.states] for client in clients}
            struck = time.monotonic()
            server.kill()
            upcoming.serving()
            if (
                chance.random() < 0.5
            ):  # the next one is there at once, else one is missing for a while
                proxy.redirect(upcoming.address)
            for client in clients:
                wait_for(
                    functools.partial(told, client, struck, steps[client]),
                    PATIENCE,
                    client.describe,
                )
                tally.add(client, struck, client.others([]), within=LOOKS + GRACE)
        proxy.redirect(upcoming.address)
        begun = time.monotonic()
        for client in clients:
            tally.recoveries.append(client.steps_again(begun, RECOVERY))
            client.end()
        upcoming.end()
    tally.tell(at.count)


def told(client: Client, since: float, steps: Sequence[int]) -> bool:
    """Whether every session has had an error, or has stepped on because it was opened by the next server."""
    return all(
        any(one["event"] == "error" for one in client.said_of(number, since))
        or client.states[number].steps > steps[number] + 3
        for number in client.others([])
    )
