"""Which tasks may start: attempts whose environments are being made, and whether making them keeps failing.

Attempts in one environment, of one tenant, are alike. Of each kind only so many start at once: a server builds no
more than so many environments side by side, and what is claimed beyond that would wait in line there, holding a
runner's place against its own limits. Where starting keeps failing for reasons of infrastructure, none is started
for a while, and then one alone: it would cost tasks their retries, and the infrastructure what is left of it.

An orchestrator knows those that it has handed out itself, to runners that come to it. Nothing of this is stored: after
a restart it is learnt anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from megaflow_server.orchestrator.records import FailureKind, Outcome, Task, TaskState
from megaflow_server.pool.breaker import Breaker
from megaflow_server.pool.shared import Throttle

__all__ = ["Grant", "Starts"]

# What a pool stops for as well: not what an environment, a task or an agent does wrong.
_OUTAGES: Final = (FailureKind.INFRASTRUCTURE, FailureKind.WORKER_DIED)
# A kind of which nothing has been heard for so many seconds is forgotten: by then its breaker has nothing to say.
_FORGET: Final = 120.0

_Kind = tuple[str, str]
_Name = tuple[str, int]


@dataclass
class _Alike:
    """What is known of attempts in one environment, of one tenant."""

    throttle: Throttle
    breaker: Breaker
    heard: float = 0.0
    # Whether something was held back since one came last.
    held: bool = False

    @property
    def allowed(self) -> bool:
        return self.throttle.is_free and self.breaker.allows(self.throttle.count)


@dataclass(frozen=True)
class _Starting:
    kind: _Kind
    runner: str


class Starts:
    """What starts, by kind; of several threads.

    Args:
        most: how many of a kind start at once.
        clock: monotonic seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[_Kind, _Alike] = {}
        self._starting: dict[_Name, _Starting] = {}
        # When something may start that was held back by a breaker.
        self._due = float("inf")

    def grant(self, runner: str) -> Grant:
        """For one claim of a runner."""
        return Grant(self, runner)

    def came(self, task: str, fence: int) -> bool:
        """An attempt's environment is there; whether something may start now that was held back."""
        with self._lock:
            alike = self._over((task, fence))
            if alike is None:
                return False
            alike.breaker.succeeded()
            held, alike.held = alike.held, False
            return held

    def ended(self, task: str, fence: int, outcome: Outcome) -> None:
        """An attempt has ended, perhaps before its environment was there."""
        failure = outcome.failure
        with self._lock:
            alike = self._over((task, fence))
            if (
                alike is not None
                and failure is not None
                and failure.phase == TaskState.STARTING
                and failure.kind in _OUTAGES
            ):
                alike.breaker.failed(failure.reason)

    def runners(self) -> frozenset[str]:
        """Those for which something starts."""
        with self._lock:
            return frozenset(one.runner for one in self._starting.values())

    def gone(self, runners: Collection[str]) -> None:
        """These runners have lost what they had, and will not say how it ended."""
        with self._lock:
            for name in [name for name, one in self._starting.items() if one.runner in runners]:
                self._over(name)

    def stirs(self) -> bool:
        """Whether a breaker that held something back lets it go by now; said once. Forgets what is over, too."""
        with self._lock:
            now = self._clock()
            for kind, alike in list(self._kinds.items()):
                if alike.throttle.count == 0 and alike.heard + _FORGET < now:
                    del self._kinds[kind]
            if self._due > now:
                return False
            self._due = float("inf")
            return True

    def why(self, tenant: str, environment: str) -> str | None:
        """Why none of a kind starts at the moment; None where one may."""
        with self._lock:
            alike = self._kinds.get((tenant, environment))
            if alike is None or alike.allowed:
                return None
            stopped = alike.breaker.why
            if stopped is not None:
                return f"{environment} to be made again: {stopped}"
            if not alike.throttle.is_free:
                return (
                    f"one of the {alike.throttle.count} {environment} that are being made: no more than "
                    f"{self._most} are at once (max_building under [server])"
                )
            return (
                f"{environment} to be made again: making it has failed ({alike.breaker.fault}), and one at a "
                "time is tried"
            )

    # For grants.

    def allows(self, task: Task) -> bool:
        """Whether one more of its kind may start now."""
        with self._lock:
            alike = self._kinds.get((task.tenant, task.environment))
            if alike is None or alike.allowed:
                return True
            alike.held = True
            self._due = min(self._due, alike.breaker.due())
            return False

    def take(self, kind: _Kind) -> None:
        with self._lock:
            alike = self._kinds.get(kind)
            if alike is None:
                alike = _Alike(Throttle(self._most), Breaker(self._clock))
                self._kinds[kind] = alike
            alike.heard = self._clock()
            alike.throttle.take()

    def give(self, kinds: Iterable[_Kind]) -> None:
        with self._lock:
            for kind in kinds:
                self._kinds[kind].throttle.give()

    def begin(self, name: _Name, kind: _Kind, runner: str) -> None:
        with self._lock:
            self._starting[name] = _Starting(kind, runner)

    def _over(self, name: _Name) -> _Alike | None:
        """It starts no more; None where it did not."""
        one = self._starting.pop(name, None)
        if one is None:
            return None
        alike = self._kinds[one.kind]
        alike.heard = self._clock()
        alike.throttle.give()
        return alike


@dataclass(eq=False)
class Grant:
    """What one claim takes of `Starts`: asked in its transaction, which may be tried several times."""

    _starts: Starts
    _runner: str
    _taken: dict[_Name, _Kind] = field(default_factory=dict)

    def begin(self) -> None:
        """Its transaction begins, or begins anew: nothing is taken yet."""
        self._starts.give(self._taken.values())
        self._taken.clear()

    def allows(self, task: Task) -> bool:
        """Whether a task may start as far as others of its kind are concerned."""
        return not task.environment or self._starts.allows(task)

    def take(self, task: Task) -> None:
        """A queued task that was allowed starts."""
        if task.environment:
            kind = (task.tenant, task.environment)
            self._starts.take(kind)
            self._taken[task.id, task.fence + 1] = kind

    def settle(self, given: Collection[_Name]) -> None:
        """Its transaction is over, and these attempts are the runner's; what was taken for others is given back."""
        for name, kind in self._taken.items():
            if name in given:
                self._starts.begin(name, kind, self._runner)
            else:
                self._starts.give([kind])
        self._taken.clear()
