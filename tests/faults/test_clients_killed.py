"""SIGKILL of clients: what they held is gone in time, and other clients never notice."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

import pytest

from fault_points import Points, at_points
from fault_scene import GONE_WITHIN, LEASE, Client, scene, wait_for
from fault_sessions import Options
from fault_tally import Gone, Tally
from leftovers import Place

# So many live at once, begun one after the other.
AT_ONCE = 4
# Each of these starts a server and its workers.
SERVERS_AT_ONCE = 2
RECOVERY = 20.0
# From the start of their interpreter until well into their work; seconds.
LATEST = 6.0

SESSIONS = [
    [Options("single", 0, daemon=True), Options("truncate", 100)],
    [Options("raise", 200, relayed=True), Options("single", 300, relayed=True, daemon=True)],
    [Options("single", 400, asynchronous=True, daemon=True), Options("single", 500, padding=5000)],
]
EMBEDDED = [[replace(one, relayed=False) for one in sessions] for sessions in SESSIONS]
BYSTANDER = [Options("single", 900, daemon=True), Options("raise", 1000, asynchronous=True)]


@pytest.mark.long
@at_points("clients killed", share=2)
def test_clients_killed(at: Points) -> None:
    tally, gone, chance = Tally("SIGKILL of a client"), Gone(), at.chance()
    with scene() as here:
        server = here.server(workers=2).serving()
        quiet = server.descriptors()
        bystander = here.client(server.address, BYSTANDER)
        begun = time.monotonic()
        bystander.steps_again(begun, RECOVERY)
        undisturbed = time.monotonic()
        due: list[tuple[float, Client]] = []
        for number in range(at.count):
            client = here.client(server.address, SESSIONS[number % len(SESSIONS)])
            due.append((time.monotonic() + chance.uniform(0.0, LATEST), client))
            while len(due) == AT_ONCE or (number == at.count - 1 and due):
                due.sort(key=lambda one: one[0])
                when, client = due.pop(0)
                time.sleep(max(0.0, when - time.monotonic()))
                daemons = [pid for state in client.states for pid in state.daemons if pid]
                client.kill()
                assert not client.wrong(), client.wrong()
                gone.expect(daemons, LEASE + GONE_WITHIN)
                tally.outcomes["playing" if client.at else "starting"] += 1
            gone.look()
        gone.wait()
        bystander.steps_again(time.monotonic(), RECOVERY)
        tally.unharmed(bystander, undisturbed, bystander.others([]))
        # Those included of which no client ever heard.
        kept = {pid for state in bystander.states for pid in state.daemons}
        wait_for(lambda: daemons_of(server.place) <= kept, LEASE + GONE_WITHIN, server.place.left)
        bystander.end()
        server.wait_until_quiet(quiet)
        server.end()
    tally.tell(at.count)
    print(f"their daemons had gone within {gone.slowest:.2f} s")


@pytest.mark.long
@at_points("clients of embedded servers killed", share=2)
def test_clients_of_embedded_servers_killed(at: Points) -> None:
    tally, chance = Tally("SIGKILL of a client with an embedded server"), at.chance()
    for first in range(0, at.count, SERVERS_AT_ONCE):
        with ExitStack() as stack:
            due: list[tuple[float, Client]] = []
            for number in range(first, min(first + SERVERS_AT_ONCE, at.count)):
                client = stack.enter_context(scene()).client("", EMBEDDED[number % len(EMBEDDED)])
                due.append((time.monotonic() + chance.uniform(0.0, LATEST), client))
            for when, client in sorted(due, key=lambda one: one[0]):
                time.sleep(max(0.0, when - time.monotonic()))
                client.kill()
                killed = time.monotonic()
                client.place.assert_nothing_left()
                tally.recoveries.append(time.monotonic() - killed)
                assert not client.wrong(), client.wrong()
                tally.outcomes["playing" if client.at else "starting"] += 1
    tally.tell(at.count)


def daemons_of(here: Place) -> set[int]:
    return {pid for pid, command in here.processes().items() if command.startswith("sleep ")}
