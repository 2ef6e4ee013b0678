"""How far a job is, as what is shown of it: a pure function of its statuses, its results and the time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from megaflow import JobStatus, Result
from megaflow_server.jobs.datasets import Broken

__all__ = ["ACTIVE", "ENDED", "WAITING", "Failed", "Progress", "failure_class"]

WAITING = ("queued", "retrying")
ACTIVE = ("starting", "running", "evaluating")
ENDED = ("succeeded", "failed", "cancelled", "quarantined")

# Seconds over which the rate is taken, and below which there is none to tell.
_WINDOW, _SHORTEST = 120.0, 2.0


@dataclass(frozen=True)
class Failed:
    """Why results are as they are: one class of failures.

    Attributes:
        kind, reason: of the newest.
        valid: whether these results count, as those of agents that err do.
    """

    kind: str
    reason: str
    count: int
    valid: bool


@dataclass
class Progress:
    """What is known of a job so far.

    Attributes:
        before: results of the job that this one resumes; they count as done.
        broken: tasks that could not be read.
    """

    before: int = 0
    broken: tuple[Broken, ...] = ()
    status: JobStatus | None = None
    results: dict[tuple[int, int], Result] = field(default_factory=dict)
    started: float = 0.0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def hear(self, status: JobStatus, now: float, age: float = 0.0) -> None:
        """Take a status of the job, at this time of a monotonic clock, so many seconds after its submission."""
        if self.status is None:
            self.started = now - age
        self.status = status
        self._seen.append((now, status.done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()

    def take(self, result: Result) -> None:
        self.results[result.index, result.sample] = result

    @property
    def total(self) -> int:
        return 0 if self.status is None else self.status.total

    @property
    def done(self) -> int:
        return 0 if self.status is None else self.status.done

    @property
    def complete(self) -> bool:
        return self.status is not None and self.status.complete and len(self.results) >= self.total

    def states(self) -> Mapping[str, int]:
        """How many tasks are in each state that one is in, in the order in which tasks go through them."""
        states = {} if self.status is None else self.status.states
        return {name: states[name] for name in (*WAITING, *ACTIVE, *ENDED) if states.get(name)}

    def rate(self) -> float | None:
        """Tasks ended in a second, of late; None where it is too early to tell."""
        if len(self._seen) < 2:
            return None
        (then, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - then) if now - then >= _SHORTEST and done > before else None

    def eta(self) -> float | None:
        """Seconds until all have ended, at this rate."""
        rate = self.rate()
        return None if not rate or self.status is None else (self.total - self.done) / rate

    def mean_reward(self) -> float | None:
        """Of the results that count; None where there is none yet."""
        rewards = [one.reward for one in self.results.values() if one.reward is not None]
        return sum(rewards) / len(rewards) if rewards else None

    def valid(self) -> int:
        return sum(one.valid for one in self.results.values())

    def retries(self) -> int:
        return sum(one.retries for one in self.results.values())

    def failures(self) -> list[Failed]:
        """By class, the most frequent first."""
        counts: Counter[tuple[str, bool]] = Counter()
        reasons: dict[tuple[str, bool], str] = {}
        for result in self.results.values():
            if (name := failure_class(result)) is not None:
                counts[name, result.valid] += 1
                reasons[name, result.valid] = (
                    result.failure.reason if result.failure else result.state
                )
        return [
            Failed(name, reasons[name, valid], count, valid)
            for (name, valid), count in counts.most_common()
        ]


def failure_class(result: Result) -> str | None:
    """What kind of failure a result tells of: infrastructure, verifier, …; None for one without."""
    if result.failure is not None:
        return result.failure.kind
    return None if result.valid else result.state
