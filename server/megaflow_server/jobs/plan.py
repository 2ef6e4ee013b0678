"""What a `megaflow run` is to do: its options over its job file, over what tasks say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megaflow import Task
from megaflow.errors import InvalidArgument
from megaflow.keeping import Keep
from megaflow_server.gateway.task_requests import Catalogue, new_task
from megaflow_server.jobs.datasets import Broken, Entry, Found, read_dataset, task_entries, unique
from megaflow_server.jobs.job_file import JobFile, TaskTable, is_job_file, load_job_file
from megaflow_server.jobs.manifest import Manifest, ManifestTask, versions
from megaflow_server.jobs.run_models import RunModels, facts

__all__ = ["Options", "Plan", "digests", "models_of", "plan_of"]

_ROLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """What the command line says; None where it says nothing."""

    datasets: tuple[str, ...]
    agent: str | None = None
    models: Mapping[str, str] | None = None
    samples: int | None = None
    concurrency: int | None = None
    name: str | None = None
    seed: int | None = None
    server: str | None = None
    keep: Keep | None = None
    snapshot: bool | None = None
    max_cost: float | None = None
    unpriced: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        tasks: with their names and digests.
        broken: those that cannot be read.
        concurrency: attempts at once; None: as many as there is room for.
        server: None for the user's local one.
        models: what the names of models mean that the local server does not know by itself.
        max_cost: USD from which on no more attempts begin; None: no limit.
        unpriced: whether models without a price may be called all the same.
    """

    name: str
    datasets: tuple[str, ...]
    tasks: tuple[tuple[str, str, Task], ...]
    broken: tuple[Broken, ...]
    samples: int
    seed: int
    concurrency: int | None
    server: str | None
    models: RunModels = field(default_factory=RunModels)
    max_cost: float | None = None
    unpriced: bool = False

    def names(self) -> list[str]:
        """Of the models."""
        return sorted({name for _, _, task in self.tasks for name in task.models.values()})

    def with_models(self, models: RunModels) -> Plan:
        """The plan whose tasks name them as the local server knows them."""
        tasks = tuple(
            (name, digest, replace(task, models=models.of(task)))
            for name, digest, task in self.tasks
        )
        return replace(self, tasks=tasks, models=models)

    def manifest(self, job: str) -> Manifest:
        """Of the job that was made of it."""
        return Manifest(
            job=job,
            name=self.name,
            dataset=self.datasets,
            samples=self.samples,
            seed=self.seed,
            server=self.server or "",
            tasks=tuple(ManifestTask(*one) for one in self.tasks),
            broken=self.broken,
            versions=versions(),
            models={name: facts(table) for name, table in self.models.tables.items()},
            max_cost=self.max_cost,
            unpriced=self.unpriced,
        )


def models_of(given: Sequence[str]) -> dict[str, str]:
    """The values of -m, [ROLE=]MODEL. Raises InvalidArgument for a role that is given twice."""
    models: dict[str, str] = {}
    for text in given:
        match = _ROLE.fullmatch(text)
        role, model = (match[1], match[2]) if match else ("policy", text)
        if role in models:
            raise InvalidArgument(
                f"-m {text!r}: there is a model for {role!r} already, {models[role]!r}"
            )
        models[role] = model
    return models


def plan_of(options: Options) -> Plan:
    """Read and check everything; nothing is asked of a server.

    Raises:
        NotFound, InvalidArgument: a dataset or a job file that is none, or nothing to run.
    """
    files = [Path(one) for one in options.datasets if is_job_file(Path(one))]
    if len(files) > 1:
        raise InvalidArgument(f"-d {files[1]}: one job file at a time; {files[0]} is one already")
    job = load_job_file(files[0]) if files else JobFile()
    tasks: list[tuple[str, str, Task]] = []
    broken: list[Broken] = []
    for one in unique(_found(options, job, files)):
        if isinstance(one, Broken):
            broken.append(one)
            continue
        task = _task(options, job, one)
        if (reason := _refusal(task)) is None:
            tasks.append((one.name, one.digest, task))
        else:
            broken.append(Broken(one.name, reason))
    if not tasks:
        reasons = "".join(f"\n  {one.name}: {one.reason}" for one in broken[:10])
        raise InvalidArgument(f"there is no task to run: all {len(broken)} are broken:{reasons}")
    seed = options.seed if options.seed is not None else job.seed
    max_cost = job.max_cost if options.max_cost is None else options.max_cost
    unpriced = options.unpriced or job.unpriced
    if unpriced and max_cost is None:
        raise InvalidArgument(
            "--unpriced says what may be called at a limited cost, and this one is not: give --max-cost, or leave it "
            "out"
        )
    return Plan(
        name=options.name or job.name or _named(options.datasets),
        datasets=tuple(map(_absolute, options.datasets)),
        tasks=tuple(tasks),
        broken=tuple(broken),
        samples=options.samples or job.samples or 1,
        # The same in each run, unless it is asked for another: so that two runs can be compared.
        seed=0 if seed is None else seed,
        concurrency=options.concurrency or job.concurrency,
        server=options.server or job.server,
        max_cost=max_cost,
        unpriced=unpriced,
    )


def _found(options: Options, job: JobFile, files: Sequence[Path]) -> Iterator[Found]:
    for dataset in options.datasets:
        if Path(dataset) not in files:
            yield from read_dataset(dataset)
            continue
        for table in job.datasets:
            yield from read_dataset(_beside(files[0], table.path), table.env_kwargs)
        yield from task_entries(job.tasks, {})


def digests(datasets: Sequence[str]) -> dict[str, str]:
    """Of the tasks of datasets, as they are now, by their names. Raises NotFound, InvalidArgument."""
    options = Options(tuple(datasets))
    files = [Path(one) for one in datasets if is_job_file(Path(one))]
    job = load_job_file(files[0]) if files else JobFile()
    found = unique(_found(options, job, files))
    return {one.name: one.digest for one in found if isinstance(one, Entry)}


def _absolute(dataset: str) -> str:
    """So that it can be found again from another folder."""
    return dataset if dataset.startswith("megaflow:") else str(Path(dataset).absolute())


def _beside(file: Path, path: str) -> str:
    """Paths in a job file are seen from its folder."""
    return path if path.startswith("megaflow:") else str(file.parent / path)


def _task(options: Options, job: JobFile, entry: Entry) -> Task:
    table = entry.table
    agent = options.agent or table.agent or job.agent
    if agent is None:
        raise InvalidArgument(f"{entry.name} names no agent: say -a AGENT, such as -a oracle")
    task = _with_job(table, job).made(agent)
    models = {**job.models, **table.models, **(options.models or {})}
    keep = task.keep if options.keep is None else options.keep
    snapshot = task.snapshot if options.snapshot is None else options.snapshot
    return replace(
        task, models=models, group=task.group or entry.name, keep=keep, snapshot=snapshot
    )


def _refusal(task: Task) -> str | None:
    """Why no server would take a task, whatever it serves; None where nothing speaks against it."""
    try:
        new_task(task.message(0, 0, 1), "task", Catalogue([task.env], imports=True))
    except InvalidArgument as error:
        return error.message
    return None


def _with_job(table: TaskTable, job: JobFile) -> TaskTable:
    """A task's table over what the job says for all: whatever the task says wins, key by key."""
    said: dict[str, Any] = {
        name: getattr(job, name)
        for name in ("limits", "resources", "priority", "mode", "keep", "snapshot")
        if name in job.model_fields_set and name not in table.model_fields_set
    }
    said["agent_kwargs"] = {**job.agent_kwargs, **table.agent_kwargs}
    return table.model_copy(update=said)


def _named(datasets: Sequence[str]) -> str:
    """What a job is called that nobody gave a name: after its dataset."""
    stem = datasets[0].rstrip("/").rpartition("/")[2].removeprefix("megaflow:")
    return re.sub(r"\.(jsonl?|toml|ya?ml)$", "", stem) or "tasks"
