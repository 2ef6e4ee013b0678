"""Tasks as people name them: by their job's name, and their own."""

from __future__ import annotations

import difflib
import re

from megaflow import Client, TaskStatus
from megaflow.errors import NotFound
from megaflow.job import Job
from megaflow_server.jobs.manifest import Manifest, manifest_of

__all__ = ["find_task"]

_PLACE = re.compile(r"\d+(\.\d+)?")


def find_task(client: Client, task: str) -> TaskStatus:
    """Where a task is.

    Args:
        task: JOB/INDEX or JOB/NAME, and .SAMPLE from the second sample on; JOB is an id or a name. Where that job only
            brought what an earlier one missed, the rest of them is found there.

    Raises:
        NotFound: says what comes close.
    """
    try:
        return client.why(task)
    except NotFound:
        job, slash, said = task.partition("/")
        if not slash:
            raise
    return _found(client, client.job(job), said)


def _found(client: Client, job: Job, said: str) -> TaskStatus:
    while True:
        manifest = manifest_of(job)
        place = _place(said, manifest, job)
        try:
            return client.why(f"{job.id}/{place}")
        except NotFound:
            if manifest is None or not manifest.resumes:
                raise
            job = client.job(manifest.resumes)


def _place(said: str, manifest: Manifest | None, job: Job) -> str:
    """INDEX, or INDEX.SAMPLE."""
    indices = {} if manifest is None else {one.name: i for i, one in enumerate(manifest.tasks)}
    if said in indices:
        return f"{indices[said]}"
    name, dot, sample = said.rpartition(".")
    if dot and sample.isdecimal() and name in indices:
        return f"{indices[name]}.{sample}" if int(sample) else f"{indices[name]}"
    if _PLACE.fullmatch(said):
        return said.removesuffix(".0")
    close = difflib.get_close_matches(said, indices, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"see `megaflow results {job.id}`"
    raise NotFound(f"task={said!r}: job {job.id} has no such task; {hint}")
