"""Runners as they are to be: one lease, numbered claims, and no execution without either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from megaflow.errors import MegaflowError
from megaflow_server.orchestrator.commands import Claim, Command, Finish, RegisterRunner, Renew
from megaflow_server.orchestrator.lease_watch import RENEW, RUNNER_STOPS
from megaflow_server.orchestrator.records import Resources
from megaflow_server.orchestrator.simulation.calls import Call
from megaflow_server.orchestrator.simulation.executions import Execution
from megaflow_server.orchestrator.simulation.network import Network
from megaflow_server.orchestrator.simulation.plans import Planner
from megaflow_server.orchestrator.simulation.truth import Truth
from megaflow_server.orchestrator.simulation.world import World

__all__ = ["Runner"]

# Seconds: how often a runner that has room asks for work.
_POLL = 1.5


class Runner:
    """A process that executes attempts, and begins again under another id where it lost its lease or died.

    Args:
        rate: of its monotonic clock, which is not quite right.
        told: hears what became of each outcome that was reported.
    """

    def __init__(
        self,
        name: str,
        world: World,
        network: Network,
        truth: Truth,
        planner: Planner,
        rate: float,
        told: Callable[[Finish, Any], None],
    ) -> None:
        self.name = name
        self.world = world
        self.truth = truth
        self.planner = planner
        self.told = told
        self._network = network
        self._rate = rate
        self.life = 0
        self._frozen_until = 0.0
        self._born()

    @property
    def id(self) -> str:
        return f"{self.name}.{self.life}"

    @property
    def frozen(self) -> bool:
        return self.world.now < self._frozen_until

    def later(self, delay: float, action: Callable[[], Any]) -> None:
        """Have something happen in this process: not once it has ended, and not while it is frozen."""
        life = self.life

        def happen() -> None:
            if self.life != life:
                return
            if self.frozen:
                self.world.after(self._frozen_until - self.world.now, happen)
            elif self._expired():
                self._begin_again("its lease has run out, by its own clock")
            else:
                action()

        self.world.after(delay, happen)

    def ask(
        self,
        command: Command,
        answered: Callable[[Any], None],
        wanted: Callable[[], bool] = lambda: True,
    ) -> Call:
        return Call(self, self._network, lambda: self.world.now, command, answered, wanted)

    def die(self) -> None:
        """SIGKILL; it begins again after a while."""
        self.world.say(f"{self.id} dies")
        self._end(1 + 5 * self.world.random.random())

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, or a machine that is suspended: nothing happens in it, its clock goes on."""
        self._frozen_until = max(self._frozen_until, self.world.now + seconds)
        for execution in self._held.values():
            execution.suspend()
        self.later(0.0, self._thaw)

    def _thaw(self) -> None:
        for execution in self._held.values():
            execution.resume()

    def _born(self) -> None:
        self.life += 1
        self._held: dict[tuple[str, int], Execution] = {}
        self._refused: set[tuple[str, int]] = set()
        self._claims = 0
        self._asking = False
        self._renewed = self.world.now  # when the last renewal that was answered was sent
        # Until it is registered it holds nothing, and so has nothing to lose.
        self._registered = False
        command = RegisterRunner(self.id, Resources(3, 4.0, 8 << 30))
        self._registration = self.ask(command, self._begin)

    def _begin(self, answer: Any) -> None:
        if isinstance(
            answer, MegaflowError
        ):  # it was held for lost before it heard that it was registered
            self._begin_again(str(answer))
            return
        self._registered = True
        self._renewed = self._registration.sent
        self._renew()
        self._poll()

    def _expired(self) -> bool:
        return self._registered and (self.world.now - self._renewed) * self._rate >= RUNNER_STOPS

    def _begin_again(self, why: str) -> None:
        self.world.say(f"{self.id} stops: {why}")
        self._end(0.5)

    def _end(self, pause: float) -> None:
        for execution in self._held.values():
            execution.suspend()
        self.life += 1
        life = self.life
        self.world.after(pause, lambda: self._born() if self.life == life else None)

    def _renew(self) -> None:
        sent = self.world.now

        def answered(answer: Any) -> None:
            if isinstance(answer, MegaflowError):
                self._begin_again(str(answer))
                return
            self._renewed = max(self._renewed, sent)
            for key in answer.revoked:
                self._refuse(*key)

        self.ask(Renew(self.id), answered)
        self.later(RENEW / self._rate, self._renew)
        # Looks at its clock then, whatever else happens.
        self.later(RUNNER_STOPS / self._rate, lambda: None)

    def _refuse(self, task: str, fence: int) -> None:
        """Stop an attempt that is not wanted any more, also one that was never heard of: a claim's lost answer."""
        if (task, fence) in self._refused:
            return
        self._refused.add((task, fence))
        held = self._held.get((task, fence))
        if held is None:
            held = self._held[task, fence] = Execution(self, task, fence, "")
        held.cancel()

    def _poll(self) -> None:
        self.later(_POLL * (0.5 + self.world.random.random()), self._poll)
        room = 3 - len(self._held)
        if room <= 0 or self._asking:
            return
        self._asking = True
        self._claims += 1
        self.ask(Claim(self.id, room, self._claims), self._claimed)

    def _claimed(self, answer: Any) -> None:
        self._asking = False
        if isinstance(answer, MegaflowError):
            self._begin_again(str(answer))
            return
        for one in answer:
            key = (one.task.id, one.task.fence)
            if key not in self._refused:
                self._held[key] = Execution(self, *key, one.task.tenant)
                self._held[key].begin()

    def ended(self, task: str, fence: int) -> None:
        """An execution's end was taken note of: it holds nothing any more."""
        self._held.pop((task, fence), None)
