"""SIGKILL of workers: their sessions are lost, said at once and made anew; all others never notice."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest

from fault_points import Points, at_points
from fault_scene import GONE_WITHIN, GRACE, scene
from fault_sessions import Options
from fault_tally import Gone, Tally

# A dead worker on the same host is noticed in so many seconds.
NOTICED = 2.0
# Another worker has to come up, which imports gymnasium on a busy machine.
RECOVERY = 20.0

SESSIONS = [
    Options("single", 0, daemon=True),
    Options("single", 100, again=True),
    Options("raise", 200),
    Options("truncate", 300, padding=5000),
    Options("single", 400, asynchronous=True),
    Options("truncate", 500, asynchronous=True),
]


@pytest.mark.long
@at_points("workers killed")
def test_workers_killed(at: Points) -> None:
    tally, gone = Tally("SIGKILL of a worker"), Gone()
    chance = at.chance()
    with scene() as here:
        server = here.server(workers=3).serving()
        quiet, sockets = server.descriptors(), len(server.sockets())
        assert sockets > 0
        relayed = [replace(one, relayed=True) for one in SESSIONS]
        clients = [here.client(server.address, sessions) for sessions in (SESSIONS, relayed)]
        for client in clients:
            client.steps_again(time.monotonic(), RECOVERY)
        for _ in range(at.count):
            time.sleep(chance.uniform(0.0, 0.4))
            victim = chance.choice(sorted(server.place.workers()))
            harmed = {client: client.sessions_in([victim]) for client in clients}
            gone.expect(
                [pid for client in clients for pid in client.daemons_in(victim)], GONE_WITHIN
            )
            struck = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            for client in clients:
                tally.recoveries.append(client.steps_again(struck, RECOVERY))
                tally.add(client, struck, harmed[client], within=NOTICED + GRACE)
                tally.unharmed(client, struck, client.others(harmed[client]))
            gone.look()
        gone.wait()
        for client in clients:
            client.end()
        server.wait_until_quiet(quiet)
        assert len(server.sockets()) <= sockets
        server.end()
    tally.tell(at.count)
