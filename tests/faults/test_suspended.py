"""A client that is suspended for two leases has lost its sessions; one that is idle for three keeps them."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

import pytest

from busy import stretched
from fault_scene import GRACE, LEASE, Client, scene, wait_for
from fault_sessions import Options

RECOVERY = 20.0
SUSPENDED, IDLE = 2 * LEASE, 3 * LEASE

SESSIONS = [
    Options("single", 0, step_timeout=60.0),
    Options("single", 100, asynchronous=True),
    Options("raise", 200),
    Options("truncate", 300, asynchronous=True),
]
RELAYED = [replace(one, relayed=True) for one in SESSIONS]


@pytest.mark.long
def test_suspended_and_idle_clients() -> None:
    """All at once, since most of it is waiting."""
    with scene() as here:
        server = here.server(workers=2).serving()
        quiet = server.descriptors()
        idle = [
            here.client(server.address, [replace(one, pause=IDLE) for one in sessions])
            for sessions in (SESSIONS, RELAYED)
        ]
        for client in idle:
            stepped(client, 1)
        suspended = [here.client(server.address, sessions) for sessions in (SESSIONS, RELAYED)]
        for client in suspended:
            client.steps_again(time.monotonic(), RECOVERY)
        for client in suspended:
            client.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        # Sessions that come meanwhile would be served whatever the suspended ones ask for.
        other = here.client(server.address, SESSIONS)
        other.steps_again(time.monotonic(), RECOVERY)
        time.sleep(max(0.0, began + SUSPENDED - time.monotonic()))
        # Read before they run again: what they say may come faster than the next line here.
        woken = time.monotonic()
        for client in suspended:
            client.process.send_signal(signal.SIGCONT)
        for client in suspended:
            client.steps_again(woken, RECOVERY)
            for number in client.others([]):
                lost(client, number, woken)
        other.steps_again(time.monotonic(), RECOVERY)
        assert [one for one in other.events if one["event"] != "slow"] == []
        for client in idle:
            stepped(client, 2)
            assert [one for one in client.events if one["event"] != "slow"] == []
        for client in [*suspended, other, *idle]:
            client.end()
        server.wait_until_quiet(quiet)
        server.end()


def stepped(client: Client, steps: int) -> None:
    wait_for(
        lambda: all(state.steps >= steps for state in client.states),
        steps * IDLE + RECOVERY,
        client.describe,
    )


def lost(client: Client, number: int, woken: float) -> None:
    """The first that a session has heard of it names the lease, or is a truncation, in good time."""
    told = ("error", "truncated")
    first = next((one for one in client.said_of(number, woken) if one["event"] in told), None)
    assert first is not None, client.describe()
    if first["event"] == "error":
        assert first["kind"] == "SessionLost", first
        assert f"its lease of {LEASE:g} s was not renewed" in first["message"], first
    assert first["at"] - max(woken, first.get("began", woken)) < stretched(GRACE), first
