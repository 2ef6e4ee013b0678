"""Which samples of a job can be evaluated once more, and the job that does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from megaflow import Client, Result
from megaflow.errors import InvalidArgument
from megaflow_server.jobs.manifest import Manifest, manifest_of
from megaflow_server.jobs.results import Gathered, Place

__all__ = ["rescored"]


def rescored(client: Client, before: Gathered, name: str | None) -> tuple[Manifest, list[Place]]:
    """The manifest of that job, and the samples that it has.

    Args:
        name: of the new job; None: the old one's, and "-rescored".

    Raises:
        InvalidArgument: nothing of the job can be evaluated again; says why.
    """
    manifest, status = before.manifest, before.status
    said = status.name or status.id
    if manifest is None:
        raise InvalidArgument(
            f"job={said!r} cannot be evaluated again: it was not submitted by `megaflow run`"
        )
    if not any(one.task.snapshot for one in manifest.tasks):
        raise InvalidArgument(
            f"job={said!r} kept no snapshots of its environments: run it with `megaflow run --snapshot`"
        )
    places = [place for place, result in before.results.items() if _was_acted(result)]
    if not places:
        raise InvalidArgument(f"job={said!r} has no sample yet whose agent has come to its end")
    jobs = tuple(_chain(client, manifest))
    tasks = tuple(
        replace(
            one,
            task=replace(
                one.task,
                agent="nop",
                agent_kwargs={},
                models={},
                idempotency_key=None,
                keep="none",
                snapshot=False,
                rescores=jobs,
            ),
        )
        for one in manifest.tasks
    )
    made = replace(
        manifest,
        name=name or f"{manifest.name}-rescored",
        tasks=tasks,
        broken=(),
        resumes="",
        models={},
        max_cost=None,
    )
    return made, sorted(places)


def _was_acted(result: Result) -> bool:
    """Whether the agent was done, so that there was something to be evaluated."""
    return result.valid or (result.failure is not None and result.failure.kind == "verifier")


def _chain(client: Client, manifest: Manifest) -> Iterator[str]:
    """The job, and those that it resumes."""
    while True:
        yield manifest.job
        if not manifest.resumes:
            return
        older = manifest_of(client.job(manifest.resumes))
        if older is None:
            return
        manifest = older
