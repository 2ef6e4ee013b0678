"""The store as plain Python: the model that databases are tested against, and what simulations run on."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from megaflow_server.orchestrator.records import (
    ACTIVE,
    FOREVER,
    TERMINAL,
    Attempt,
    AttemptState,
    Event,
    Job,
    ManifestPart,
    Peak,
    Runner,
    RunnerState,
    Task,
    TaskState,
    Tenant,
)
from megaflow_server.orchestrator.store.base import Heard, Keys
from megaflow_server.orchestrator.store.news import Listeners, news_of

__all__ = ["MemoryStore"]

K = TypeVar("K")
V = TypeVar("V")


class MemoryStore:
    """Records in dictionaries, with the indexes that a database would have. Gone with its process."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[Any, Any]] = defaultdict(dict)
        self._queued: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self._due: list[tuple[float, str]] = []
        self._open: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self._unfinished: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self._finished: dict[str, dict[int, str]] = defaultdict(dict)
        self._counts: Counter[tuple[str, TaskState]] = Counter()
        self._events: list[Event] = []
        self._undo: list[Callable[[], None]] = []
        self._listeners = Listeners()
        self._news: set[str] = set()

    @contextmanager
    def transaction(self) -> Iterator[MemoryStore]:
        """The store itself; what the block changes is undone where it raises."""
        self._undo = []
        self._news = set()
        try:
            yield self
        except BaseException:
            for step in reversed(self._undo):
                step()
            raise
        self._undo = []
        self._listeners.tell(self._news)

    def listen(self, heard: Heard) -> Callable[[], None]:
        return self._listeners.add(heard)

    def close(self) -> None:
        """Nothing to do."""

    # Reads and writes of one record.

    def fetch(self, keys: Keys) -> None:
        """Nothing to do: everything is here."""

    def task(self, task: str) -> Task | None:
        return self._tables["tasks"].get(task)

    def put_task(self, task: Task) -> None:
        self._swap_task(self._tables["tasks"].get(task.id), task)
        self._news.update(news_of(task))

    def add_tasks(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.put_task(task)

    def attempt(self, task: str, fence: int) -> Attempt | None:
        return self._tables["attempts"].get((task, fence))

    def put_attempt(self, attempt: Attempt) -> None:
        key = (attempt.task, attempt.fence)
        held = self._open[attempt.runner]
        was = key in held
        (held.discard if attempt.state is AttemptState.CLOSED else held.add)(key)
        self._undo.append(lambda: (held.add if was else held.discard)(key))
        self._put("attempts", key, attempt)
        self._news.update(news_of(attempt))

    def job(self, job: str) -> Job | None:
        return self._tables["jobs"].get(job)

    def put_job(self, job: Job) -> None:
        self._put("jobs", job.id, job)

    def runner(self, runner: str) -> Runner | None:
        return self._tables["runners"].get(runner)

    def put_runner(self, runner: Runner) -> None:
        self._put("runners", runner.id, runner)

    def tenant(self, tenant: str) -> Tenant | None:
        return self._tables["tenants"].get(tenant)

    def put_tenant(self, tenant: Tenant) -> None:
        self._put("tenants", tenant.name, tenant)

    def spec(self, key: str) -> str | None:
        return self._tables["specs"].get(key)

    def put_spec(self, key: str, document: str) -> None:
        self._put("specs", key, document)

    def manifest(self, job: str, part: int) -> ManifestPart | None:
        return self._tables["manifests"].get((job, part))

    def put_manifest(self, part: ManifestPart) -> None:
        self._put("manifests", (part.job, part.part), part)

    def submission(self, tenant: str, key: str) -> tuple[str, str] | None:
        return self._tables["submissions"].get((tenant, key))

    def put_submission(self, tenant: str, key: str, task: str, digest: str) -> None:
        self._put("submissions", (tenant, key), (task, digest))

    def peak(self, tenant: str, environment: str) -> Peak | None:
        return self._tables["peaks"].get((tenant, environment))

    def put_peak(self, peak: Peak) -> None:
        self._put("peaks", (peak.tenant, peak.environment), peak)

    def add_event(self, event: Event) -> None:
        self._events.append(event)
        self._undo.append(self._forget_event)

    # What the scheduler asks for.

    def waiting_tenants(self) -> Sequence[Tenant]:
        return self.waiting()

    def waiting(self) -> Sequence[Tenant]:
        names = sorted(name for name, queue in self._queued.items() if queue)
        return [self._tables["tenants"][name] for name in names]

    def heads(self, tenants: Sequence[str], after: Task | None, most: int) -> Sequence[Task]:
        found: list[Task] = []
        for tenant in tenants:
            queue = self._queued[tenant]
            begin = 0 if after is None else bisect.bisect_right(queue, _place(after))
            found += [self._tables["tasks"][entry[-1]] for entry in queue[begin : begin + most]]
        return found

    def due(self, now: float, most: int) -> Sequence[Task]:
        end = bisect.bisect_right(self._due, (now, "\U0010ffff"))
        return [self._tables["tasks"][name] for _, name in self._due[: min(end, most)]]

    def open_attempts(
        self, runner: str, state: AttemptState | None, most: int
    ) -> Sequence[Attempt]:
        found = (self._tables["attempts"][key] for key in sorted(self._open[runner]))
        return [one for one in found if state is None or one.state is state][:most]

    def unfinished(self, job: str, most: int) -> Sequence[Task]:
        return [self._tables["tasks"][name] for _, name in self._unfinished[job][:most]]

    # Outside transactions.

    def results(self, job: str, after: int, most: int) -> Sequence[Task]:
        done = self._finished[job]
        names = (done[place] for place in range(after + 1, after + most + 1) if place in done)
        return [self._tables["tasks"][name] for name in names]

    def counts(self) -> Sequence[tuple[str, TaskState, int]]:
        return sorted((*key, count) for key, count in self._counts.items() if count)

    def history(self, task: str) -> Sequence[Event]:
        return [event for event in self._events if event.task == task]

    def runners(self) -> Sequence[Runner]:
        every = sorted(self._tables["runners"].items())
        return [runner for _, runner in every if runner.state is not RunnerState.GONE]

    def job_attempts(self, job: str) -> Iterator[Attempt]:
        for key, attempt in sorted(self._tables["attempts"].items()):
            if self._tables["tasks"][key[0]].job == job:
                yield attempt

    def find_task(self, task: str) -> Task | None:
        return self.task(task)

    def find_job(self, tenant: str, job: str) -> Job | None:
        found = self._tables["jobs"].get(job)
        if found is not None and found.tenant == tenant:
            return cast("Job", found)
        return next(
            (
                one
                for one in self.jobs(tenant, len(self._tables["jobs"]))
                if job and one.name == job
            ),
            None,
        )

    def find_manifest(self, job: str, part: int) -> ManifestPart | None:
        return self.manifest(job, part)

    def jobs(self, tenant: str, most: int) -> Sequence[Job]:
        every = [one for one in self._tables["jobs"].values() if one.tenant == tenant]
        return sorted(every, key=lambda one: (-one.submitted, one.id))[:most]

    def states(self, job: str) -> Sequence[tuple[TaskState, int]]:
        tasks = self._tables["tasks"].values()
        return sorted(Counter(task.state for task in tasks if task.job == job).items())

    def active(self, job: str, most: int) -> Sequence[Task]:
        tasks = [task for task in self._tables["tasks"].values() if task.job == job]
        active = [task for task in tasks if task.state in ACTIVE]
        return sorted(active, key=lambda task: (task.started, task.id))[:most]

    def tenants(self) -> Sequence[Tenant]:
        return [tenant for _, tenant in sorted(self._tables["tenants"].items())]

    def find_peak(self, tenant: str, environment: str) -> Peak | None:
        return self.peak(tenant, environment)

    def ahead(self, task: Task) -> int:
        return bisect.bisect_left(self._queued[task.tenant], _place(task))

    def _forget_event(self) -> None:
        self._events.pop()

    def _put(self, table: str, key: Any, value: Any) -> None:
        rows = self._tables[table]
        before = rows.get(key)
        rows[key] = value
        self._undo.append(lambda: _restore(rows, key, before))

    def _swap_task(self, before: Task | None, after: Task) -> None:
        self._put("tasks", after.id, after)
        if before is not None:
            self._forget(before)
        self._index(after)

        def undo() -> None:
            self._forget(after)
            if before is not None:
                self._index(before)

        self._undo.append(undo)

    def _index(self, task: Task) -> None:
        self._counts[task.tenant, task.state] += 1
        if task.state is TaskState.QUEUED:
            bisect.insort(self._queued[task.tenant], _place(task))
        if task.due != FOREVER:
            bisect.insort(self._due, (task.due, task.id))
        if task.state in TERMINAL:
            self._finished[task.job][task.done] = task.id
        else:
            bisect.insort(self._unfinished[task.job], (task.order, task.id))

    def _forget(self, task: Task) -> None:
        self._counts[task.tenant, task.state] -= 1
        if task.state is TaskState.QUEUED:
            _remove(self._queued[task.tenant], _place(task))
        if task.due != FOREVER:
            _remove(self._due, (task.due, task.id))
        if task.state in TERMINAL:
            del self._finished[task.job][task.done]
        else:
            _remove(self._unfinished[task.job], (task.order, task.id))


def _place(task: Task) -> tuple[Any, ...]:
    return (-task.priority, task.submitted, task.job, task.order, task.id)


def _remove(entries: list[Any], entry: Any) -> None:
    del entries[bisect.bisect_left(entries, entry)]


def _restore(rows: dict[K, V], key: K, before: V | None) -> None:
    if before is None:
        del rows[key]
    else:
        rows[key] = before
