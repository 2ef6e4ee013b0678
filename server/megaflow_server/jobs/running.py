"""`megaflow run`: submits what a plan says, or what is missing of a job, and watches it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from megaflow import AsyncClient, Client
from megaflow.errors import InvalidArgument, NotFound
from megaflow_server.jobs.datasets import Broken
from megaflow_server.jobs.junit import write_junit
from megaflow_server.jobs.local import models_folder, use_local_server
from megaflow_server.jobs.manifest import Manifest, manifest_of, versions
from megaflow_server.jobs.plan import Plan, digests
from megaflow_server.jobs.progress import Progress
from megaflow_server.jobs.rescoring import rescored
from megaflow_server.jobs.results import Gathered, Place, gather, missing
from megaflow_server.jobs.run_models import RunModels, facts
from megaflow_server.jobs.table import Names
from megaflow_server.jobs.watch import Ending, Plain, Shown, watch
from megaflow_server.models.pins import put

__all__ = ["Watching", "attach", "models_of_job", "reached", "resume", "start"]

# Broken tasks that are told one by one.
_MOST_BROKEN = 20


@dataclass(frozen=True)
class Watching:
    """How a job is watched.

    Attributes:
        live: a table; else lines.
        server: as commands that come back are to name it; None for the local one.
        junit: a file for the results; None for none.
    """

    console: Console
    live: bool
    server: str | None
    junit: Path | None = None

    def shown(self, title: str, progress: Progress, names: Names) -> Shown:
        return (Shown if self.live else Plain)(self.console, title, progress, names)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def back(self, job: str) -> str:
        at = f" --server {self.server}" if self.server else ""
        return f"Come back with: megaflow attach {job}{at}"


@contextlib.contextmanager
def reached(
    server: str | None,
    concurrency: int | None,
    console: Console,
    models: RunModels | None = None,
) -> Iterator[str]:
    """The address of the server: the one that is named, else the user's local one, which lives on.

    Args:
        models: what the local one is to call.

    Raises InvalidArgument for a concurrency that somebody else decides.
    """
    if server is not None:
        if concurrency is not None:
            raise InvalidArgument(
                f"-n {concurrency}: how much runs at once on {server} is decided there, by its runners and by the "
                "quota of your tenant; leave -n out"
            )
        yield server
        return
    models = models or RunModels()
    with use_local_server(concurrency, keys=models.keys, withheld=models.withheld) as local:
        put(models_folder(), models.tables.values())
        if local.started:
            console.print(
                f"Started a local server, which goes on without this command; it keeps its tasks in {local.folder}.",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
        yield local.address


def start(plan: Plan, address: str, watching: Watching) -> bool:
    """Submit a plan, and watch it. Returns whether every task has a result that counts."""
    with Client(address) as client:
        served = {info.id for info in client.envs()}
    plan = _without_unserved(plan, served, address)
    _tell_broken(plan.broken, watching)

    async def run() -> tuple[str, Ending]:
        async with AsyncClient(address) as client:
            job = await client.submit(
                [task for _, _, task in plan.tasks],
                samples=plan.samples,
                name=plan.name,
                seed=plan.seed,
                manifest=lambda id_: plan.manifest(id_).content(),
                max_cost=plan.max_cost,
                unpriced=plan.unpriced,
            )
            progress = Progress(broken=plan.broken)
            shown = watching.shown(plan.name, progress, plan.manifest(job.id).names())
            return job.id, await watch(job, progress, shown, watching.back(plan.name))

    return _ended(address, *asyncio.run(run()), watching)


def models_of_job(name: str, address: str) -> list[str]:
    """What a job names; none where it was not submitted by `megaflow run`. Raises NotFound."""
    with Client(address) as client:
        manifest = manifest_of(client.job(name))
    tasks = () if manifest is None else manifest.tasks
    return sorted({model for one in tasks for model in one.task.models.values()})


def resume(
    name: str,
    address: str,
    watching: Watching,
    models: RunModels,
    max_cost: float | None = None,
    unpriced: bool = False,
) -> bool:
    """Run what a job has no result of, what infrastructure spoilt and what never began; one that still runs is watched.

    Raises:
        InvalidArgument: what the job might cost was limited, and nobody says what its rest may.
    """
    before = _as_it_is(name, address, watching)
    if not before.status.complete:
        if max_cost is not None:
            raise InvalidArgument(
                f"--max-cost {max_cost:g}: {name} still runs, at the limit that it was submitted with; leave it out"
            )
        watching.say(f"{name} still runs.")
        return attach(name, address, watching)
    places, manifest = missing(before), before.manifest
    assert manifest is not None  # or `missing` would have said so
    if not places:
        watching.say(f"Nothing is missing of {name}.")
        return _told(before, watching)
    watching.say(f"{len(places)} of {before.total} samples of {name} are missing.")
    _check_unchanged(manifest, watching)
    if manifest.max_cost is not None and max_cost is None:
        raise InvalidArgument(
            f"{name} was run with --max-cost {manifest.max_cost:g}, and has cost {_dollars(before)}: say what "
            "its rest may cost, with --max-cost"
        )
    rest = replace(
        _renamed(manifest, models),
        max_cost=max_cost,
        unpriced=unpriced,
        resumes=manifest.job,
        versions=versions(),
    )
    return _again(rest, places, address, watching)


def _as_it_is(name: str, address: str, watching: Watching) -> Gathered:
    """A job's results; one whose submission was cut off takes no more tasks from here on, and ends."""
    with Client(address) as client:
        before = gather(client, name)
        if before.status.sealed:
            return before
        watching.say(
            f"{name} was cut off while it was submitted, at {before.status.total} samples."
        )
        client.job(before.status.id).seal()
    attach(name, address, watching)
    with Client(address) as client:
        return gather(client, name)


def _check_unchanged(manifest: Manifest, watching: Watching) -> None:
    """Raises InvalidArgument where tasks are others by now: one job is not to measure both."""
    try:
        now = digests(manifest.dataset)
    except (NotFound, InvalidArgument) as error:
        watching.say(f"Whether its tasks have changed is not known: {error.message}")
        return
    changed = [one.name for one in manifest.tasks if now.get(one.name) != one.digest]
    if changed:
        raise InvalidArgument(
            f"{len(changed)} tasks of {manifest.name} have changed since, or are gone, such as {changed[0]}: put them "
            "back as they were, or run all of it anew"
        )


def _dollars(job: Gathered) -> str:
    """What a job has cost, as far as that is known."""
    more = "" if job.cost is not None else ", and what nobody can tell"
    return f"${job.known_cost:.6g}{more}"


def _renamed(manifest: Manifest, models: RunModels) -> Manifest:
    """The manifest with the models that its tasks call now."""
    tasks = tuple(
        replace(one, task=replace(one.task, models=models.of(one.task))) for one in manifest.tasks
    )
    now = {name: facts(table) for name, table in models.tables.items()}
    return replace(manifest, tasks=tasks, models=now or manifest.models)


def _again(manifest: Manifest, places: Collection[Place], address: str, watching: Watching) -> bool:
    async def run() -> tuple[str, Ending]:
        async with AsyncClient(address) as client:
            job = await client.submit(
                [one.task for one in manifest.tasks],
                samples=manifest.samples,
                name=manifest.name,
                seed=manifest.seed,
                only=frozenset(places),
                manifest=lambda id_: replace(manifest, job=id_).content(),
                max_cost=manifest.max_cost,
                unpriced=manifest.unpriced,
            )
            progress = Progress(broken=manifest.broken)
            shown = watching.shown(manifest.name, progress, manifest.names())
            return job.id, await watch(job, progress, shown, watching.back(manifest.name))

    return _ended(address, *asyncio.run(run()), watching)


def rescore(job: str, name: str | None, address: str, watching: Watching) -> bool:
    """Evaluate the samples of a job once more, from the snapshots that were kept of them, as a job of its own.

    Raises InvalidArgument where nothing of it can be.
    """
    with Client(address) as client:
        before = gather(client, job)
        manifest, places = rescored(client, before, name)
    watching.say(f"{len(places)} of {before.total} samples of {job} are evaluated once more.")
    return _again(manifest, places, address, watching)


def attach(name: str, address: str, watching: Watching) -> bool:
    """Watch a job that was submitted before."""
    with Client(address) as client:
        job_id = client.job(name).id
        manifest = gather(client, name).manifest

    async def run() -> Ending:
        async with AsyncClient(address) as client:
            job = await client.job(job_id)
            progress = Progress(broken=manifest.broken if manifest else ())
            names = manifest.names() if manifest else {}
            return await watch(
                job, progress, watching.shown(name, progress, names), watching.back(name)
            )

    return _ended(address, job_id, asyncio.run(run()), watching)


class Detached(Exception):
    """Whoever watched has left; the job goes on."""


def _ended(address: str, job: str, ending: Ending, watching: Watching) -> bool:
    if ending is Ending.DETACHED:
        raise Detached
    with Client(address) as client:
        return _told(gather(client, job), watching)


def _told(gathered: Gathered, watching: Watching) -> bool:
    name = gathered.status.name or gathered.status.id
    if watching.junit is not None:
        results = gathered.results.values()
        write_junit(watching.junit, name, results, gathered.broken, gathered.names)
    rewards = [one.reward for one in gathered.results.values() if one.reward is not None]
    mean = f", mean reward {sum(rewards) / len(rewards):.4g}" if rewards else ""
    lacking = gathered.total - sum(one.valid for one in gathered.results.values())
    watching.say(f"{name}: {len(rewards)} of {gathered.total} samples have a reward{mean}.")
    status = gathered.status
    if gathered.known_cost:
        watching.say(f"Its calls of models have cost {_dollars(gathered)}.")
    if status.spent:
        watching.say(
            f"It stopped: it may cost ${status.max_cost:g} (--max-cost). Tasks that had not begun are cancelled."
        )
    at = f" --server {watching.server}" if watching.server else ""
    watching.say(f"Each of them: megaflow results {name}{at}")
    if lacking:
        watching.say(f"{lacking} have no valid result.")
        if gathered.manifest is not None and (again := missing(gathered)):
            watching.say(
                f"{len(again)} of them were spoilt by infrastructure, or never began, and are run again by: "
                f"megaflow run --resume {name}{at}"
            )
    return gathered.whole


def _without_unserved(plan: Plan, served: Collection[str], address: str) -> Plan:
    """The plan without tasks whose environment the server does not have: they are broken, the others run."""
    tasks, broken = [], list(plan.broken)
    for one in plan.tasks:
        name, _, task = one
        if task.env in served or ":" in task.env:
            tasks.append(one)
        else:
            broken.append(
                Broken(
                    name, f"env={task.env!r}: the server does not have it; see `megaflow envs list`"
                )
            )
    if not tasks:
        raise InvalidArgument(f"there is no task to run: {broken[0].name}: {broken[0].reason}")
    return replace(plan, tasks=tuple(tasks), broken=tuple(broken))


def _tell_broken(broken: Collection[Broken], watching: Watching) -> None:
    for one in list(broken)[:_MOST_BROKEN]:
        watching.say(f"Broken task {one.name}: {one.reason}")
    if len(broken) > _MOST_BROKEN:
        watching.say(f"and {len(broken) - _MOST_BROKEN} more broken tasks")
