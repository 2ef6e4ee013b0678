"""SIGSTOP of workers for one and a half leases: ended where that is too long a silence, else as if nothing was."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from fault_points import Points, at_points
from fault_scene import GRACE, LEASE, scene
from fault_sessions import Options
from fault_tally import Tally

STOPPED = 1.5 * LEASE
# Of these workers so many are stopped at a time.
WORKERS, AT_ONCE = 4, 2
RECOVERY = 20.0
# What a silence may exceed the limit by before it is known for too long: a look, and the end of the process.
JUDGED = 2.0

SESSIONS = [
    Options("single", 0),
    Options("raise", 100),
    Options("truncate", 200),
    Options("single", 300, asynchronous=True),
]


@pytest.mark.long
@pytest.mark.parametrize("heartbeat_timeout", [None, 60.0], ids=["ended", "resumed"])
@at_points("workers stopped", share=2)
def test_workers_stopped(at: Points, heartbeat_timeout: float | None) -> None:
    tally = Tally(f"SIGSTOP of a worker, heartbeat_timeout={heartbeat_timeout or LEASE:g}")
    chance = at.chance()
    with scene() as here:
        server = here.server(workers=WORKERS, heartbeat_timeout=heartbeat_timeout).serving()
        quiet = server.descriptors()
        clients = [
            here.client(server.address, [replace(one, relayed=relayed) for one in SESSIONS])
            for relayed in (False, True)
        ]
        for client in clients:
            client.steps_again(time.monotonic(), RECOVERY)
        points = 0
        while points < at.count:
            time.sleep(chance.uniform(0.0, 0.3))
            victims = chance.sample(sorted(server.place.workers()), AT_ONCE)
            points += AT_ONCE
            harmed = {client: client.sessions_in(victims) for client in clients}
            struck = time.monotonic()
            for victim in victims:
                os.kill(victim, signal.SIGSTOP)
            time.sleep(STOPPED)
            for victim in victims:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGCONT)
            resumed = time.monotonic()
            for client in clients:
                tally.recoveries.append(client.steps_again(resumed, RECOVERY))
                tally.unharmed(client, struck, client.others(harmed[client]))
                if heartbeat_timeout is None:
                    tally.add(client, struck, harmed[client], within=LEASE + JUDGED + GRACE)
                else:
                    tally.resumed(client, struck, harmed[client], within=STOPPED + GRACE)
        for client in clients:
            client.end()
        server.wait_until_quiet(quiet)
        server.end()
    tally.tell(points)
