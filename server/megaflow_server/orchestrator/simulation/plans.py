"""How attempts go, as a seed has it: for how long, and what comes of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from megaflow_server.orchestrator.records import Failure, FailureKind, Outcome

__all__ = ["Plan", "Planner"]

_FAILURES = {
    "infrastructure": FailureKind.INFRASTRUCTURE,
    "worker died": FailureKind.WORKER_DIED,
    "environment": FailureKind.ENVIRONMENT,
    "verifier": FailureKind.VERIFIER,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one attempt: seconds until its environment is there, until its agent and its evaluation are done."""

    starts: float
    runs: float
    evaluates: float
    outcome: Outcome


class Planner:
    """Draws a plan for each attempt.

    Attributes:
        faulty: whether infrastructure fails beyond those tasks that always do.
        poisonous: tasks while running which the worker always dies.
    """

    def __init__(self, seed: int, poisonous: frozenset[str]) -> None:
        self._seed = seed
        self.faulty = True
        self.poisonous = poisonous

    def plan(self, task: str, fence: int) -> Plan:
        chance = random.Random(f"{self._seed} {task} {fence}")
        outcome = self._outcome(task, chance)
        return Plan(chance.uniform(0.1, 3), chance.uniform(0.5, 25), chance.uniform(0, 2), outcome)

    def _outcome(self, task: str, chance: random.Random) -> Outcome:
        drawn = chance.random()
        name = "agent"
        if task in self.poisonous:
            name = "worker died"
        elif drawn < 0.06:
            name = "environment"
        elif drawn < 0.1:
            name = "verifier"
        elif drawn < 0.35 and self.faulty:
            name = "worker died" if drawn < 0.15 else "infrastructure"
        if name == "agent":
            reward = round(chance.random(), 3)
            return Outcome(True, reward, {"solved": reward}, trajectory=f"{task}.trajectory")
        return Outcome(False, failure=Failure(_FAILURES[name], "running", f"as planned: {name}"))
