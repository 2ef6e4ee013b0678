"""How often infrastructure is given another try, and after how long.

A task is retried at most `RETRIES` times, after a delay that doubles and is drawn in full (exponential back-off
with full jitter). Its job has a budget besides, a token bucket: where much fails at once, retries wait for
tokens instead of adding to what fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from megaflow_server.orchestrator.changing import changed
from megaflow_server.orchestrator.records import Job
from megaflow_server.orchestrator.seeds import fraction

__all__ = ["RetryPolicy"]


@dataclass(frozen=True)
class RetryPolicy:
    """Numbers that a deployment may set.

    Attributes:
        most: retries of one task.
        base, cap: seconds; the n-th delay is drawn below min(cap, base * 2**(n - 1)).
        burst: tokens that a job has at first and at most, for each of its tasks, and at least `floor`.
        refill: tokens a second.
        deaths: workers that die while they run a task before it is quarantined.
    """

    most: int = 3
    base: float = 1.0
    cap: float = 60.0
    burst: float = 0.2
    floor: float = 10.0
    refill: float = 1.0
    deaths: int = 3

    def delay(self, task: str, retry: int) -> float:
        """Seconds before a task's n-th retry, from 1."""
        most = min(self.cap, self.base * 2.0 ** (retry - 1))
        return most * fraction("retry", task, retry)

    def spend(self, job: Job, now: float) -> tuple[Job, float]:
        """Take a token of the job's budget: the job as it is then, and for how many seconds that must wait.

        A budget may be overdrawn: each further retry then waits for its own token.
        """
        most = max(self.floor, self.burst * job.total)
        earned = max(0.0, now - job.retry_at) * self.refill
        tokens = min(most, job.retry_tokens + earned) if job.retry_at else most
        left = tokens - 1.0
        return changed(job, retry_tokens=left, retry_at=now), max(0.0, -left / self.refill)
