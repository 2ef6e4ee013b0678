"""A job's manifest: what was run, on what, and with which versions, so that two jobs can be compared.

The server keeps it beside the job, so that whoever sees the job sees what it was made of.
"""

from __future__ import annotations

import json
import platform
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from megaflow import Amount, Limits, Resources, Task
from megaflow.errors import InvalidArgument
from megaflow.job import Job
from megaflow_server.jobs.datasets import Broken

__all__ = ["Manifest", "ManifestTask", "difference", "manifest_of", "versions"]

_VERSION = 1
# Bytes of one, unpacked: a million tasks have less.
_LARGEST = 2**30
# What a result depends on besides the task: their versions are in every manifest.
_PACKAGES = ("megaflow", "gymnasium", "numpy")


@dataclass(frozen=True)
class ManifestTask:
    """A task at its place in the job.

    Attributes:
        digest: of all that it consists of but for who acts.
        task: as it was submitted.
    """

    name: str
    digest: str
    task: Task

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> ManifestTask:
        """What `asdict` has made of one. Raises KeyError, TypeError."""
        task = dict(said["task"])
        resources = {name: Amount(**amount) for name, amount in task.pop("resources").items()}
        limits, rescores = Limits(**task.pop("limits")), tuple(task.pop("rescores"))
        made = Task(**task, limits=limits, rescores=rescores, resources=Resources(**resources))
        return cls(said["name"], said["digest"], made)


@dataclass(frozen=True)
class Manifest:
    """What a job is.

    Attributes:
        job: its id.
        resumes: the id of the job whose missing results this one brings; "" where it is none.
        server: where it runs; "" for the user's local server.
        tasks: at their places; a resumed job has all of the first one's.
        broken: tasks of the dataset that could not be read.
        versions: of packages, Python and the system.
        models: what those were that the configuration of the local server's user had, by the names in tasks: kind,
            the upstream's name, base_urls, price.
        max_cost, unpriced: as it was submitted with.
    """

    job: str
    name: str
    dataset: tuple[str, ...]
    samples: int
    seed: int
    server: str
    tasks: tuple[ManifestTask, ...]
    broken: tuple[Broken, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    resumes: str = ""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_cost: float | None = None
    unpriced: bool = False

    def content(self) -> bytes:
        """As it is kept."""
        return zlib.compress(json.dumps({"manifest": _VERSION, **asdict(self)}).encode())

    def names(self) -> dict[int, str]:
        """The name of each task, by its place."""
        return {index: task.name for index, task in enumerate(self.tasks)}

    @classmethod
    def of(cls, job: str, content: bytes) -> Manifest:
        """What `content` has made of one. Raises InvalidArgument, which names the job."""
        try:
            said = json.loads(_decompressed(content))
            if said.pop("manifest") != _VERSION:
                raise InvalidArgument(
                    f"job={job!r}: its manifest was written by another version of megaflow"
                )
            tasks = tuple(map(ManifestTask.read, said.pop("tasks")))
            broken = tuple(Broken(**one) for one in said.pop("broken"))
            dataset = tuple(said.pop("dataset"))
            return cls(tasks=tasks, broken=broken, dataset=dataset, **said)
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise InvalidArgument(f"job={job!r}: what it keeps is no manifest: {error}") from None


def manifest_of(job: Job) -> Manifest | None:
    """A job's manifest; None where it was not submitted by `megaflow run`. Raises InvalidArgument."""
    content = job.manifest()
    return None if content is None else Manifest.of(job.id, content)


def _decompressed(content: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    found = unpacking.decompress(content, _LARGEST)
    if not unpacking.eof:
        raise ValueError("it is cut off, or too large")
    return found


def versions() -> dict[str, str]:
    """What runs here."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "from a source tree"
    return found


def difference(one: Manifest, other: Manifest) -> Sequence[str]:
    """Why results of two jobs are not of the same thing; empty where they are. Who acts may differ."""
    return list(_differences(one, other))


def _differences(one: Manifest, other: Manifest) -> Iterator[str]:
    ours = {task.name: task.digest for task in one.tasks}
    theirs = {task.name: task.digest for task in other.tasks}
    if missing := sorted(set(ours) ^ set(theirs)):
        yield f"{len(missing)} tasks are in one of them only, such as {missing[0]}"
    if changed := sorted(name for name in set(ours) & set(theirs) if ours[name] != theirs[name]):
        yield f"{len(changed)} tasks have changed, such as {changed[0]}"
    if one.seed != other.seed:
        yield f"seed: {one.seed} and {other.seed}"
    for name in sorted(set(one.versions) | set(other.versions)):
        mine, other_ = one.versions.get(name), other.versions.get(name)
        if mine != other_:
            yield f"{name}: {mine} and {other_}"
