"""What became of a job, with what the jobs that it resumes brought, and what is still missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from megaflow import Client, JobStatus, Result
from megaflow.errors import InvalidArgument
from megaflow_server.jobs.datasets import Broken
from megaflow_server.jobs.manifest import Manifest, manifest_of

__all__ = ["Gathered", "Place", "gather", "missing"]

# A task's index, and which of its samples.
Place = tuple[int, int]

# Kinds of failures that neither the environment nor the agent is to blame for.
_INFRASTRUCTURE = frozenset(
    {"infrastructure", "worker_died", "runner_lost", "model", "cancelled", "timeout"}
)


@dataclass(frozen=True)
class Gathered:
    """A job's results so far.

    Attributes:
        manifest: None where the job was not submitted by `megaflow run`.
        results: by place; of jobs that were resumed, the newest that counts.
        cost: USD of the calls of models of all attempts, those of the jobs that were resumed included; None where
            nobody can tell, or no task named a model.
        known_cost: of those calls whose cost is known.
    """

    status: JobStatus
    manifest: Manifest | None
    results: Mapping[Place, Result]
    cost: float | None = None
    known_cost: float = 0.0

    @property
    def broken(self) -> tuple[Broken, ...]:
        return self.manifest.broken if self.manifest else ()

    @property
    def names(self) -> Mapping[int, str]:
        """Of each task: the manifest's, else what its group says."""
        if self.manifest is not None:
            return self.manifest.names()
        return {index: one.group or str(index) for (index, _), one in self.results.items()}

    @property
    def total(self) -> int:
        """Samples of the dataset that could be read."""
        if self.manifest is None:
            return self.status.total
        return len(self.manifest.tasks) * self.manifest.samples

    @property
    def whole(self) -> bool:
        """Whether every sample of every task has a result that counts."""
        valid = sum(one.valid for one in self.results.values())
        return not self.broken and valid >= self.total


def gather(client: Client, job: str) -> Gathered:
    """Ask a server for all that there is of a job. Raises NotFound."""
    handle = client.job(job)
    status = handle.status()
    manifest = manifest_of(handle)
    results: dict[Place, Result] = {}
    seen, one = handle, manifest
    ended = status.done
    spent = [status]
    while True:
        for result in seen.results() if ended else ():
            place = (result.index, result.sample)
            if place not in results or (result.valid and not results[place].valid):
                results[place] = result
            if result.done >= ended:
                break
        if one is None or not one.resumes:
            return Gathered(status, manifest, results, *_cost(spent, results.values()))
        seen = client.job(one.resumes)
        spent.append(seen.status())
        ended, one = spent[-1].done, manifest_of(seen)


def _cost(jobs: Sequence[JobStatus], results: Iterable[Result]) -> tuple[float | None, float]:
    """What jobs have cost, and as far as that is known."""
    costs = [job.cost for job in jobs]
    known = [cost for cost in costs if cost is not None]
    told = len(known) == len(costs) and any(one.cost is not None for one in results)
    return (sum(known) if told else None, sum(job.known_cost for job in jobs))


def missing(gathered: Gathered) -> list[Place]:
    """Samples that are to be run again: those without a result, spoilt by infrastructure, or that never began.

    The last lacked an image, say, or an agent of that name: who runs it again has mended that.

    Raises:
        InvalidArgument: nobody here knows what the job's tasks were.
    """
    manifest = gathered.manifest
    if manifest is None:
        raise InvalidArgument(
            f"job={gathered.status.id!r} cannot be resumed: it was not submitted by `megaflow run`"
        )
    places = [
        (index, sample)
        for index in range(len(manifest.tasks))
        for sample in range(manifest.samples)
    ]
    return [place for place in places if _is_missing(gathered.results.get(place))]


def _is_missing(result: Result | None) -> bool:
    if result is None or result.state == "cancelled":
        return True
    if result.valid:
        return False
    failure = result.failure
    return failure is None or failure.kind in _INFRASTRUCTURE or failure.phase == "starting"
