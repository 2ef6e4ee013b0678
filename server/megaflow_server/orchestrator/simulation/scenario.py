"""One run: two orchestrators over one store, runners and clients, faults, and everything checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from megaflow_server.orchestrator.commands import SetTenant
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.simulation.checks import Checks
from megaflow_server.orchestrator.simulation.clients import Acknowledged, Client
from megaflow_server.orchestrator.simulation.faults import Faults
from megaflow_server.orchestrator.simulation.fleet import Runner
from megaflow_server.orchestrator.simulation.network import Network
from megaflow_server.orchestrator.simulation.observed import Failing, ObservedStore
from megaflow_server.orchestrator.simulation.orchestrators import Orchestrator
from megaflow_server.orchestrator.simulation.plans import Planner
from megaflow_server.orchestrator.simulation.truth import Truth
from megaflow_server.orchestrator.simulation.world import World
from megaflow_server.orchestrator.store.base import Store
from megaflow_server.orchestrator.store.memory import MemoryStore

__all__ = ["Run", "run"]

# Seconds after which everything has ended, faults or not: the longest retries, one after the other, and some more.
_ENOUGH = 1500.0
_TENANTS = (SetTenant("ann", 2.0, 3), SetTenant("bob", 1.0, None))


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run.

    Attributes:
        digest: of everything that happened; the same for the same seed.
        wrong: promises that did not hold, each with the first case of it.
        seconds: of virtual time, until everything had ended.
        reached: how often each transition happened, and each kind of failure.
        lines: the trace, where it was kept.
    """

    seed: int
    digest: str
    wrong: dict[str, str]
    seconds: float
    reached: Counter[str]
    lines: list[str] | None


def run(seed: int, new_store: Callable[[], Store] = MemoryStore, *, keep: bool = False) -> Run:
    """Play one seed.

    Args:
        keep: keep the trace's lines.
    """
    world = World(seed, keep=keep)
    wrong: dict[str, str] = {}

    def report(promise: str, case: str) -> None:
        world.say(f"WRONG {promise}: {case}")
        wrong.setdefault(promise, case)

    policy = RetryPolicy(cap=20.0, floor=2.0, refill=0.2)
    truth = Truth({tenant.name: tenant.most for tenant in _TENANTS}, report)
    checks, acknowledged = Checks(policy, truth, report), Acknowledged()
    faults: list[Faults] = []

    def fails() -> Failing | None:
        return faults[0].failing() if faults else None

    store = ObservedStore(new_store(), checks.seen, fails)
    orchestrators = [Orchestrator(f"o{number}", world, store, policy) for number in range(2)]
    network = Network(world, [*orchestrators])
    planner = Planner(seed, frozenset({"job-c0/3.1"}))
    rates = [world.random.uniform(0.97, 1.03) for _ in range(3)]
    runners = [
        Runner(f"r{number}", world, network, truth, planner, rate, checks.told)
        for number, rate in enumerate(rates)
    ]
    clients = [
        Client(f"c{number}", world, network, _TENANTS[number % 2], acknowledged)
        for number in range(3)
    ]
    names = [client.name for client in clients]
    faults.append(Faults(world, network, orchestrators, runners, names))
    truth.exact = not faults[0].planned
    begin = world.now

    def done() -> bool:
        planner.faulty = not faults[0].over
        return faults[0].over and _ended(checks, clients)

    world.run(begin + _ENOUGH, done)
    checks.in_the_end(store, acknowledged, truth.executing)
    store.close()
    return Run(seed, world.digest, wrong, world.now - begin, checks.reached, world.lines)


def _ended(checks: Checks, clients: list[Client]) -> bool:
    return all(client.submitted for client in clients) and checks.ended
