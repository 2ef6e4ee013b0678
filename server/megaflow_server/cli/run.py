"""`megaflow run` and `attach`: tasks of a dataset, run to their end, with a live table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megaflow_server.cli.errors import INTERRUPTED, NO, USAGE, fail
from megaflow_server.cli.options import ConfigFile
from megaflow_server.cli.reaching import LocalServer, named

if TYPE_CHECKING:
    from megaflow_server.jobs.run_models import RunModels
    from megaflow_server.jobs.running import Watching

PlainLines = Annotated[
    bool,
    typer.Option("--plain", help="Lines instead of a live table; so it is where no terminal is."),
]
Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the results as JUnit's XML.")
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's id or name.")]


class Keeps(Enum):
    """The values of --keep."""

    NONE = "none"
    FAILED = "failed"
    ALL = "all"


def run(
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="DATASET",
            help="A folder of task folders, a .jsonl of tasks or of SWE-bench rows, a job file (.toml, .yaml), or "
            "megaflow:terminal, megaflow:swe; several are fine.",
        ),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", "-a", metavar="AGENT", help="Who acts, whatever the dataset says."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[ROLE=]MODEL",
            help="The model of a role. Default role: policy",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", "-k", min=1, help="How often each task is run. Default: 1"),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "-n",
            min=1,
            help="Attempts at once on the local server, from now on. Default: two for each CPU, until it is said",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Of the job. Default: the dataset's"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="What every task's seed follows from. Default: 0"),
    ] = None,
    keep: Annotated[
        Keeps | None,
        typer.Option(
            "--keep",
            help="Whose sandbox is kept for a day, for `megaflow shell JOB/TASK`: that of attempts that failed, "
            "where failed is no valid result, the agent's failure, or a reward of 0 or less. Default: none",
        ),
    ] = None,
    snapshot: Annotated[
        bool | None,
        typer.Option(
            "--snapshot/--no-snapshot",
            help="Keep a snapshot of each environment for a day before it is evaluated, for `megaflow rescore JOB`.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="JOB", help="Run only what a job misses, or infrastructure spoilt."
        ),
    ] = None,
    server: LocalServer = None,
    config: ConfigFile = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost",
            min=0,
            metavar="USD",
            help="Begin no more attempts once calls of models have cost so much, and refuse calls of those that run.",
        ),
    ] = None,
    unpriced: Annotated[
        bool,
        typer.Option("--unpriced", help="Call models without a price all the same, at --max-cost."),
    ] = False,
    junit: Junit = None,
    plain: PlainLines = False,
) -> None:
    """Run the tasks of a dataset, and show how they fare.

    Ctrl-C leaves the job running, and says how to come back; Ctrl-C again cancels it. Ends with 1 where a task has no
    valid result, with 130 after Ctrl-C.
    """
    from megaflow.plugins import check_agent
    from megaflow_server.jobs.plan import Options, models_of, plan_of
    from megaflow_server.jobs.running import resume as again
    from megaflow_server.jobs.running import start

    if resume is not None:
        given = {
            "-d": dataset,
            "-a": agent,
            "-m": model,
            "-k": samples,
            "--name": name,
            "--seed": seed,
            "--keep": keep,
            "--snapshot": snapshot,
        }
        if more := [option for option, value in given.items() if value is not None]:
            fail(f"--resume runs what {resume} is made of: leave {', '.join(more)} out", USAGE)
        if unpriced and max_cost is None:
            fail("--unpriced goes with --max-cost: give that, or leave it out", USAGE)
        priced = max_cost is not None and not unpriced
        models = _models_of_job(resume, server, config, priced=priced)
        _watched(
            lambda address, how: again(resume, address, how, models, max_cost, unpriced),
            server,
            concurrency,
            plain,
            junit,
            models,
        )
        return
    if not dataset:
        fail("say what to run: -d DATASET, such as a folder of tasks, or --resume JOB", USAGE)
    options = Options(
        datasets=tuple(dataset),
        agent=agent,
        models=models_of(model or ()),
        samples=samples,
        concurrency=concurrency,
        name=name,
        seed=seed,
        server=server,
        keep=None if keep is None else keep.value,
        snapshot=snapshot,
        max_cost=max_cost,
        unpriced=unpriced,
    )
    plan = plan_of(options)
    if named(plan.server) is None:
        for actor in sorted({task.agent for _, _, task in plan.tasks}):
            check_agent(actor)  # what is installed here, the local server has, too
    priced = plan.max_cost is not None and not plan.unpriced
    plan = plan.with_models(_models(plan.names(), plan.server, config, priced=priced))
    _watched(
        lambda address, how: start(plan, address, how),
        plan.server,
        plan.concurrency,
        plain,
        junit,
        plan.models,
    )


def _models(
    names: Iterable[str], server: str | None, config: Path | None, *, priced: bool
) -> RunModels:
    """What they mean; `priced`: each has to have a price. On a server that is named, its runners know."""
    from megaflow_server.jobs.local import models_folder
    from megaflow_server.jobs.run_models import RunModels, run_models

    at = named(server)
    if at is None:
        return run_models(names, config, models_folder(), priced=priced)
    if config is not None:
        fail(f"--config {config}: models are those of the runners of {at}; leave it out", USAGE)
    return RunModels()


def _models_of_job(job: str, server: str | None, config: Path | None, *, priced: bool) -> RunModels:
    from rich.console import Console

    from megaflow_server.jobs.running import models_of_job, reached

    names: list[str] = []
    if named(server) is None:
        with reached(None, None, Console(), _models((), server, config, priced=False)) as address:
            names = models_of_job(job, address)
    return _models(names, server, config, priced=priced)


def attach(
    job: JobName, server: LocalServer = None, junit: Junit = None, plain: PlainLines = False
) -> None:
    """Watch a job that was submitted before, as `megaflow run` does."""
    from megaflow_server.jobs.running import attach as follow

    _watched(lambda address, how: follow(job, address, how), server, None, plain, junit)


def rescore(
    job: JobName,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Of the new job. Default: JOB-rescored"),
    ] = None,
    server: LocalServer = None,
    junit: Junit = None,
    plain: PlainLines = False,
) -> None:
    """Evaluate a job's samples once more with the verifiers as they are now, from the snapshots that were kept.

    It takes a job that was run with --snapshot, and makes another one, for `megaflow compare JOB JOB-rescored`; no
    agent and no model is asked.
    """
    from megaflow_server.jobs.running import rescore as again

    _watched(lambda address, how: again(job, name, address, how), server, None, plain, junit)


def _watched(
    do: Callable[[str, Watching], bool],
    server: str | None,
    concurrency: int | None,
    plain: bool,
    junit: Path | None,
    models: RunModels | None = None,
) -> None:
    from rich.console import Console

    if junit is not None and (junit.is_dir() or not junit.absolute().parent.is_dir()):
        fail(f"--junit {junit}: is no file in a folder that there is", USAGE)
    from megaflow_server.jobs.running import Detached, Watching, reached

    console = Console()
    server = named(server)
    watching = Watching(console, console.is_terminal and not plain, server, junit)
    try:
        with reached(server, concurrency, console, models) as address:
            whole = do(address, watching)
    except Detached:
        sys.exit(INTERRUPTED)
    if not whole:
        raise typer.Exit(NO)
