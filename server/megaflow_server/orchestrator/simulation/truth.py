"""What is really executed, whatever the store believes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from megaflow_server.orchestrator.lease_watch import RENEW

__all__ = ["Executing", "Truth"]

# Seconds: for messages and clocks.
_SLACK = 1.5


class Executing(NamedTuple):
    """An attempt that a runner is executing."""

    task: str
    fence: int
    tenant: str
    runner: str


class Truth:
    """Every attempt that is executed right now.

    Args:
        limits: how many of a tenant may be.
        wrong: is told, by the name of a promise, what does not hold.

    Attributes:
        unwanted: since when tasks have ended, whatever their attempts do.
        exact: whether nothing goes wrong, so that what is not wanted must stop in time.
    """

    def __init__(self, limits: dict[str, int | None], wrong: Callable[[str, str], None]) -> None:
        self.unwanted: dict[str, float] = {}
        self.exact = False
        self._limits = limits
        self._wrong = wrong
        self._now: dict[str, set[Executing]] = {}
        self._tenants: Counter[str] = Counter()

    def begin(self, one: Executing) -> None:
        held = self._now.setdefault(one.task, set())
        if held:
            self._wrong("one execution of a task at a time", f"{one} beside {sorted(held)}")
        held.add(one)
        self._tenants[one.tenant] += 1
        most = self._limits.get(one.tenant)
        if most is not None and self._tenants[one.tenant] > most:
            count = self._tenants[one.tenant]
            self._wrong(
                "a quota is never exceeded", f"{count} of {one.tenant} are executed, limit {most}"
            )

    def end(self, one: Executing, now: float) -> None:
        self._now[one.task].remove(one)
        self._tenants[one.tenant] -= 1
        late = now - self.unwanted.get(one.task, now)
        if self.exact and late > RENEW + _SLACK:
            self._wrong("what is not wanted any more is stopped", f"{one} went on for {late:.1f} s")

    @property
    def executing(self) -> list[Executing]:
        return sorted(one for held in self._now.values() for one in held)
