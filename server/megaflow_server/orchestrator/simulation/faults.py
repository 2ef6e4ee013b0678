"""What goes wrong, and when, as a seed has it. All of it stops at a moment."""

from __future__ import annotations

import random
from collections.abc import Callable

from megaflow_server.orchestrator.simulation.fleet import Runner
from megaflow_server.orchestrator.simulation.network import Network
from megaflow_server.orchestrator.simulation.observed import Failing
from megaflow_server.orchestrator.simulation.orchestrators import Orchestrator
from megaflow_server.orchestrator.simulation.world import World

__all__ = ["Faults"]

# Seconds: until when anything goes wrong, and the longest that one thing does.
_END = 120.0
_LONGEST = 60.0


class Faults:
    """Draws faults for a run, has them happen, and mends everything at the end.

    Attributes:
        planned: how many there are.
        over: whether they are.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        orchestrators: list[Orchestrator],
        runners: list[Runner],
        clients: list[str],
    ) -> None:
        self.over = False
        self._world = world
        self._network = network
        self._orchestrators = orchestrators
        self._runners = runners
        self._clients = clients
        self._failing = 0.0
        kinds: list[Callable[[], None]] = [
            self._crash,
            self._slow,
            self._jump,
            self._kill,
            self._freeze,
            self._cut,
            self._cut_client,
            self._fail,
            self._misbehave,
        ]
        self.planned = world.random.randint(0, 12)
        for _ in range(self.planned):
            world.after(_END * world.random.random(), world.random.choice(kinds))
        world.after(_END, self._mend)

    def failing(self) -> Failing | None:
        """How the store's next transaction fails, if it does."""
        if self._world.random.random() < self._failing:
            return self._world.random.choice(list(Failing))
        return None

    @property
    def _chance(self) -> random.Random:
        return self._world.random

    def _for_a_while(self, what: str, mend: Callable[[], None], longest: float = _LONGEST) -> None:
        self._world.say(f"fault: {what}")
        self._world.after(longest * self._chance.random(), mend)

    def _crash(self) -> None:
        one = self._chance.choice(self._orchestrators)
        one.crash()
        self._for_a_while(f"{one.name} crashes", one.start, 20.0)

    def _slow(self) -> None:
        one, usual = self._chance.choice(self._orchestrators), 0.004
        one.commit = self._chance.uniform(0.1, 4)
        self._for_a_while(f"{one.name} is slow", lambda: setattr(one, "commit", usual))

    def _jump(self) -> None:
        one = self._chance.choice(self._orchestrators)
        one.jump = self._chance.uniform(-30, 30)
        self._for_a_while(
            f"{one.name}'s clock jumps by {one.jump}", lambda: setattr(one, "jump", 0.0)
        )

    def _kill(self) -> None:
        self._chance.choice(self._runners).die()

    def _freeze(self) -> None:
        one, seconds = self._chance.choice(self._runners), self._chance.uniform(1, _LONGEST)
        self._world.say(f"fault: {one.id} freezes for {seconds}")
        one.freeze(seconds)

    def _cut(self) -> None:
        self._cut_off(self._chance.choice(self._runners).name)

    def _cut_client(self) -> None:
        self._cut_off(self._chance.choice(self._clients))

    def _cut_off(self, name: str) -> None:
        self._network.cut.add(name)
        self._for_a_while(f"{name} is cut off", lambda: self._network.cut.discard(name))

    def _fail(self) -> None:
        self._failing = self._chance.uniform(0.1, 0.9)
        self._for_a_while("the store fails", lambda: setattr(self, "_failing", 0.0), 20.0)

    def _misbehave(self) -> None:
        self._network.misbehaves = True
        self._for_a_while(
            "the network misbehaves", lambda: setattr(self._network, "misbehaves", False)
        )

    def _mend(self) -> None:
        self._world.say("no more faults")
        self.over = True
        self._failing = 0.0
        self._network.misbehaves = False
        self._network.cut.clear()
        for one in self._orchestrators:
            one.jump, one.commit = 0.0, 0.004
            one.start()
