"""Connections that are cut in the middle of a frame, stalled and delayed: sessions are taken up again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from random import Random

import pytest

from busy import stretched
from fault_points import Points, at_points
from fault_proxy import FaultProxy
from fault_scene import GRACE, LEASE, NOTHING, Client, Scene, Server, scene, wait_for
from fault_sessions import Options
from fault_tally import Tally
from impatient import DROPPED, ENVIRON

# Clients, each with a connection of its own to one server.
LANES = 4
RECOVERY = 20.0
# From the end of a fault to the reply, with new connections that wait for each other on a busy machine.
RESUMED = 5.0
# A connection that says nothing is asked and dropped, and then the gateway is asked for 10 s.
GIVEN_UP = DROPPED + 10.0 + 5.0

SESSIONS = [
    Options("single", 0, relayed=True, padding=20_000),
    Options("truncate", 100, relayed=True, padding=1_000),
    Options("raise", 200, relayed=True, asynchronous=True),
    Options("single", 300, relayed=True, step_timeout=1.0),
    Options("single", 400, relayed=True, asynchronous=True, step_timeout=1.0),
]
# The sessions whose steps have a deadline.
TIMED = [number for number, one in enumerate(SESSIONS) if one.step_timeout]


class Lane:
    """A client behind a proxy."""

    def __init__(
        self, stack: ExitStack, here: Scene, server: Server, environ: Mapping[str, str]
    ) -> None:
        self.proxy = stack.enter_context(FaultProxy(server.address))
        self.client = here.client(self.proxy.address, SESSIONS, environ)

    def cut(self, chance: Random) -> None:
        """Cuts the connections, at once or wherever the next bytes end."""
        before, reset = self.proxy.cuts, chance.random() < 0.5
        if chance.random() < 0.25:
            self.proxy.cut(reset=reset)
        else:
            self.proxy.cut_after(chance.randrange(1, 200_000), reset=reset)
        wait_for(lambda: self.proxy.cuts > before, RECOVERY, self.client.describe)

    def stall(self, chance: Random) -> None:
        self.proxy.stall(**chance.choice([{}, {"up": False}, {"down": False}]))

    def flow(self, chance: Random) -> None:
        """Ends a stall, perhaps by what a router does that has forgotten the connections."""
        if chance.random() < 0.3:
            self.proxy.cut(reset=True)
        self.proxy.flow()


@contextmanager
def road(lanes: int, environ: Mapping[str, str] = NOTHING) -> Iterator[list[Lane]]:
    """So many clients that step, each on its lane to one server; nothing of it may be left in the end."""
    with scene() as here, ExitStack() as stack:
        server = here.server(workers=2, environ=environ).serving()
        quiet = server.descriptors()
        clients = [Lane(stack, here, server, environ) for _ in range(lanes)]
        for lane in clients:
            lane.client.steps_again(time.monotonic(), RECOVERY)
        yield clients
        for lane in clients:
            lane.client.end()
        server.wait_until_quiet(quiet)
        server.end()


@pytest.mark.long
@at_points("connections cut")
def test_connections_cut(at: Points) -> None:
    tally, chance = Tally("connections cut"), at.chance()
    with road(min(LANES, at.count)) as lanes:
        points = 0
        while points < at.count:
            struck = time.monotonic()
            for lane in lanes:
                lane.proxy.delay(chance.choice([0.0, 0.0, 0.003]))
                lane.cut(chance)
            ended = time.monotonic()
            points += len(lanes)
            for lane in lanes:
                tally.recoveries.append(lane.client.steps_again(ended, RECOVERY))
                judge(tally, lane.client, struck, 0.0)
            time.sleep(chance.uniform(0.0, 0.2))
    tally.tell(points)


@pytest.mark.long
@at_points("connections stalled")
def test_connections_stalled(at: Points) -> None:
    tally, chance = Tally("connections stalled"), at.chance()
    with road(min(LANES, at.count)) as lanes:
        points = 0
        while points < at.count:
            # Half of them well within a lease, half beyond one.
            short, long = chance.uniform(0.1, 0.45) * LEASE, chance.uniform(1.25, 1.75) * LEASE
            half = chance.sample(lanes, (len(lanes) + 1) // 2)
            struck = time.monotonic()
            for lane in lanes:
                lane.stall(chance)
            for seconds, some in ((short, [one for one in lanes if one not in half]), (long, half)):
                time.sleep(max(0.0, struck + seconds - time.monotonic()))
                for lane in some:
                    lane.flow(chance)
                ended = time.monotonic()
                for lane in some:
                    tally.recoveries.append(lane.client.steps_again(ended, RECOVERY))
                    judge(tally, lane.client, struck, ended - struck)
            points += len(lanes)
    tally.tell(points)


def judge(tally: Tally, client: Client, struck: float, stalled: float) -> None:
    """What is over within a lease harms no session; steps with a deadline end by it in any case."""
    untimed = client.others(TIMED)
    if stalled < LEASE / 2:
        tally.resumed(client, struck, untimed, within=stalled + RESUMED)
    else:
        tally.add(client, struck, untimed, within=stalled + LEASE + GRACE)
    tally.add(client, struck, TIMED, within=stalled + LEASE + GRACE)
    for number in TIMED:
        for one in client.said_of(number, struck):
            if one.get("call") == "step":
                timeout = SESSIONS[number].step_timeout
                assert timeout is not None
                assert one["at"] - one["began"] <= timeout + stretched(GRACE), one
                assert stalled >= LEASE / 2 or one.get("kind") != "SessionLost", one


@pytest.mark.long
def test_a_stall_without_end() -> None:
    """A connection that answers nothing is dropped, and its sessions are given up, in known time."""
    with road(1, ENVIRON) as (lane,):
        struck = time.monotonic()
        lane.proxy.stall()
        wait_for(lambda: told(lane.client, struck), GIVEN_UP, lane.client.describe)
        for number in TIMED:
            first = next(one for one in lane.client.said_of(number, struck) if "kind" in one)
            assert first["kind"] == "DeadlineExceeded"
        lane.proxy.flow()
        lane.client.steps_again(time.monotonic(), RECOVERY)


def told(client: Client, since: float) -> bool:
    """Whether every session has heard of a loss, as its kind does."""
    heard = {
        one["session"]
        for one in client.events
        if one["at"] > since and (one.get("kind") == "SessionLost" or one["event"] == "truncated")
    }
    return len(heard) == len(SESSIONS)
