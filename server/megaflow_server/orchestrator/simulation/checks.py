"""What must hold of everything that is written, and of what there is in the end. Each check has a promise's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from megaflow_server.orchestrator.commands import Finish, Finished
from megaflow_server.orchestrator.records import (
    ACTIVE,
    TERMINAL,
    Attempt,
    AttemptState,
    Event,
    FailureKind,
    Resources,
    RunnerState,
    Task,
    TaskState,
)
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.seeds import seed_of
from megaflow_server.orchestrator.simulation.clients import Acknowledged
from megaflow_server.orchestrator.simulation.observed import Written
from megaflow_server.orchestrator.simulation.truth import Truth
from megaflow_server.orchestrator.transitions import EDGES

__all__ = ["Checks"]

# Seconds: how often orchestrators look at what is due, and some more.
_SLACK = 3.0
_SPOILT = (FailureKind.INFRASTRUCTURE, FailureKind.WORKER_DIED)


class Checks:
    """Watches what is committed.

    Args:
        wrong: is told, by the name of a promise, what does not hold.

    Attributes:
        reached: how often each transition happened, and each kind of failure.
    """

    def __init__(
        self, policy: RetryPolicy, truth: Truth, wrong: Callable[[str, str], None]
    ) -> None:
        self.reached: Counter[str] = Counter()
        self.tasks: dict[str, Task] = {}
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self._held: dict[tuple[str, int], Attempt] = {}
        self._going: set[str] = set()
        self._policy = policy
        self._truth = truth
        self._wrong = wrong
        self._states: dict[str, TaskState] = {}
        self._runners: dict[str, Any] = {}
        self._tenants: dict[str, Any] = {}
        self._accepted: dict[tuple[str, int], Finish] = {}

    def seen(self, written: Written) -> None:
        """What a transaction wrote, once it is committed."""
        for event in written.events:
            self._event(event, written)
        for task in written.tasks.values():
            self._task(task)
        for key, attempt in written.attempts.items():
            self._attempt(attempt, self.tasks[attempt.task])
            self.attempts[key] = attempt
            if attempt.state is AttemptState.CLOSED:
                self._held.pop(key, None)
            else:
                self._held[key] = attempt
        self._runners.update(written.runners)
        self._tenants.update(written.tenants)
        if written.attempts or written.runners or written.tenants:
            self._add_up()

    @property
    def ended(self) -> bool:
        """Whether every task has, and nothing is held any more."""
        return not self._held and not self._going

    def told(self, command: Finish, answer: Any) -> None:
        """What a runner heard of an outcome that it reported."""
        if isinstance(answer, Finished) and answer.accepted:
            self._accepted[command.task, command.fence] = command

    def _event(self, event: Event, written: Written) -> None:
        before = self._states.get(event.task)
        if event.before is not before or (before and event.after not in EDGES[before]):
            self._wrong("events follow the edges", f"{event}, after {before}")
        self._states[event.task] = event.after
        if event.after in TERMINAL:
            self._truth.unwanted[event.task] = event.at
        self.reached[f"{before or 'new'} > {event.after}"] += 1
        if before in ACTIVE and event.after in (TaskState.RETRYING, TaskState.QUEUED):
            ended = written.attempts[event.task, event.fence].outcome
            kind = ended.failure.kind if ended is not None and ended.failure is not None else None
            lost = event.after is TaskState.QUEUED
            if (kind is not FailureKind.RUNNER_LOST) if lost else (kind not in _SPOILT):
                self._wrong("only infrastructure is retried", f"{event}: {kind}")

    def _task(self, task: Task) -> None:
        known = self.tasks.get(task.id)
        if known is not None and known.state in TERMINAL and known != task:
            self._wrong("one result per task", f"{known} became {task}")
        if self._states.get(task.id) is not task.state:
            self._wrong(
                "every transition is an event", f"{task} against {self._states.get(task.id)}"
            )
        if task.seed != seed_of(7, task.index, task.sample):
            self._wrong("seeds come from job, task and sample", str(task))
        if task.retries > self._policy.most:
            self._wrong("at most so many retries", str(task))
        self.tasks[task.id] = task
        if task.state in TERMINAL:
            self._going.discard(task.id)
        else:
            self._going.add(task.id)

    def _attempt(self, attempt: Attempt, task: Task) -> None:
        known = self.attempts.get((attempt.task, attempt.fence))
        if (
            attempt.outcome is not None
            and attempt.outcome.failure is not None
            and known is not None
        ):
            self.reached[attempt.outcome.failure.kind] += known.outcome is None
        wanted = task.state in ACTIVE and task.fence == attempt.fence
        if attempt.state is AttemptState.OPEN and not wanted:
            self._wrong("what is not wanted any more is stopped", f"{attempt} while {task}")
        newly = attempt.accepted and not (known is not None and known.accepted)
        if newly and attempt.fence != task.fence:
            self._wrong("a stale fence writes nothing", f"{attempt} while {task}")
        # Where a retry was cancelled, or too late, before anybody looked, or three deaths were enough, it is not.
        ended = task.state is TaskState.SUCCEEDED or (
            attempt.outcome is not None and attempt.outcome.valid
        )
        if newly and ended and task.outcome != attempt.outcome:
            self._wrong("the accepted outcome is the task's", f"{attempt} while {task}")

    def _add_up(self) -> None:
        """Runners' room and tenants' quotas, against what is open."""
        held = self._held.values()
        running = Counter(one.tenant for one in held)
        for tenant in self._tenants.values():
            most = tenant.most
            if tenant.running != running[tenant.name] or (
                most is not None and running[tenant.name] > most
            ):
                self._wrong(
                    "a quota is never exceeded", f"{tenant}, {running[tenant.name]} are open"
                )
        on: dict[str, list[Resources]] = {}
        for one in held:
            on.setdefault(one.runner, []).append(one.requests)
        for runner in self._runners.values():
            said, real = runner.used, sum(on.get(runner.id, ()), Resources(slots=0))
            if (
                said.slots != real.slots
                or abs(said.cpu - real.cpu) > 1e-6
                or not said.fits(runner.capacity)
            ):
                self._wrong("a runner's room is never exceeded", f"{runner}, {real} is open")

    def in_the_end(self, store: Any, acknowledged: Acknowledged, executing: list[Any]) -> None:
        """Once everything should have ended."""
        for task in self.tasks.values():
            if task.state not in TERMINAL:
                self._wrong("everything ends", str(task))
            elif task.outcome is None or (task.state is TaskState.SUCCEEDED) != task.outcome.valid:
                self._wrong("every end has its outcome", str(task))
            self._retried_enough(task)
            self._in_time(task)
        held = [one for one in self.attempts.values() if one.state is not AttemptState.CLOSED]
        if held or executing:
            self._wrong("nothing is left", f"{held}, {executing}")
        self._acknowledged(store, acknowledged)
        for job in {task.job for task in self.tasks.values()}:
            places = [task.done for task in store.results(job, 0, 10_000)]
            if places != list(range(1, len(places) + 1)):
                self._wrong("each task ends at a place of its own", f"{job}: {places}")
        counts = Counter((task.tenant, task.state) for task in self.tasks.values())
        if sorted((*key, count) for key, count in counts.items()) != list(store.counts()):
            self._wrong("counts are those of the store", str(store.counts()))
        left = [one for one in self._runners.values() if one.state is RunnerState.LOST]
        if left:
            self._wrong("nothing is left", str(left))

    def _in_time(self, task: Task) -> None:
        limits, ended = task.timeouts, self._truth.unwanted.get(task.id)
        if not self._truth.exact or ended is None:
            return
        times = [(limits.schedule_to_close, ended - task.submitted)]
        if task.fence:
            if task.started >= max(
                task.queued, task.not_before
            ):  # it was not to be retried after that
                times.append((limits.start_to_close, ended - task.started))
            times.append((limits.schedule_to_start, task.started - task.queued))
        if any(limit is not None and taken > limit + _SLACK for limit, taken in times):
            self._wrong("each limit is kept", str(task))

    def _retried_enough(self, task: Task) -> None:
        ends = [self.attempts[task.id, fence].outcome for fence in range(1, task.fence + 1)]
        kinds = [end.failure.kind for end in ends if end is not None and end.failure is not None]
        accepted = [
            kind
            for fence, kind in enumerate(
                (e.failure.kind if e and e.failure else None for e in ends), 1
            )
            if self.attempts[task.id, fence].accepted
        ]
        deaths = accepted.count(FailureKind.WORKER_DIED)
        if (task.state is TaskState.QUARANTINED) != (deaths >= self._policy.deaths):
            self._wrong("three deaths are a quarantine", f"{task}: {kinds}")
        failure = task.outcome.failure if task.outcome is not None else None
        if failure is not None and failure.kind is FailureKind.RUNNER_LOST:
            self._wrong("infrastructure is retried", f"{task}: {kinds}")
        spoilt = failure is not None and failure.kind in _SPOILT
        if task.state is TaskState.FAILED and spoilt and task.retries < self._policy.most:
            self._wrong("infrastructure is retried", f"{task}: {kinds}")

    def _acknowledged(self, store: Any, acknowledged: Acknowledged) -> None:
        for name in acknowledged.tasks:
            if name not in self.tasks or store.history(name)[:1] == []:
                self._wrong("what was acknowledged is there", name)
        for key, made in acknowledged.keys.items():
            if len(made) != 1:
                self._wrong("a key makes one task", f"{key}: {made}")
        for name in acknowledged.cancelled & self.tasks.keys():
            if self.tasks[name].state not in TERMINAL:
                self._wrong("cancelled is ended", name)
        for job in acknowledged.jobs_cancelled:
            left = [
                task
                for task in self.tasks.values()
                if task.job == job and task.state not in TERMINAL
            ]
            if left:
                self._wrong("cancelled is ended", f"{job}: {left}")
        for (task, fence), command in self._accepted.items():
            attempt = self.attempts[task, fence]
            if not attempt.accepted or attempt.outcome != command.outcome:
                self._wrong("an outcome that was accepted stands", f"{command} against {attempt}")
