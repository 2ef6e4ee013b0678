"""`megaflow results`, `logs`, `compare` and `report`: what became of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megaflow_server.cli.errors import NO, USAGE, fail
from megaflow_server.cli.options import AsJson, TaskName
from megaflow_server.cli.reaching import LocalServer, address_of, client_of
from megaflow_server.cli.report import print_json, print_table
from megaflow_server.cli.run import JobName

if TYPE_CHECKING:
    from megaflow_server.jobs.comparison import Comparison, Pair
    from megaflow_server.jobs.results import Gathered

# Tasks that a comparison names on each side.
_MOST = 20


def results(job: JobName, server: LocalServer = None, as_json: AsJson = False) -> None:
    """List what became of a job's tasks. Ends with 1 where one has no valid result, though all have ended."""
    from megaflow_server.jobs.results import gather

    with client_of(server) as client:
        gathered = gather(client, job)
    if as_json:
        print_json(_facts(gathered))
    else:
        _print(gathered)
    if gathered.status.complete and not gathered.whole:
        raise typer.Exit(NO)


def logs(
    task: TaskName,
    server: LocalServer = None,
) -> None:
    """Show why a task failed: the last lines of the log that says most, and where its trajectory is."""
    from megaflow_server.jobs.task_names import find_task

    with client_of(server) as client:
        status = find_task(client, task)
    failure = status.failure
    typer.echo(f"{status.id} is {status.state}: {status.reason}")
    if failure is not None:
        typer.echo(f"{failure.kind} failure while {failure.phase}: {failure.reason}")
        if failure.log:
            typer.echo("")
            typer.echo(failure.log.rstrip("\n"))
    if status.trajectory:
        typer.echo(f"\nWhat happened: megaflow export {status.trajectory} --format jsonl")


def compare(
    before: Annotated[str, typer.Argument(metavar="JOB", help="What it is compared with.")],
    after: Annotated[str, typer.Argument(metavar="JOB", help="What is new.")],
    force: Annotated[
        bool, typer.Option("--force", help="Compare what was not measured alike, too.")
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit", metavar="FILE", help="Write it as JUnit's XML: a task fails where it fell."
        ),
    ] = None,
    server: LocalServer = None,
    as_json: AsJson = False,
) -> None:
    """Compare two jobs of the same tasks. Ends with 1 where the second is worse, chance aside."""
    from megaflow_server.jobs.comparison import compared
    from megaflow_server.jobs.manifest import difference
    from megaflow_server.jobs.results import gather

    with client_of(server) as client:
        one, other = gather(client, before), gather(client, after)
    differences: list[str] = []
    if one.manifest and other.manifest:
        differences = list(difference(one.manifest, other.manifest))
    elif not force:
        fail(
            "one of them was not submitted by `megaflow run`: what they measured is not known; --force compares them",
            USAGE,
        )
    if differences and not force:
        said = "".join(f"\n  {each}" for each in differences)
        fail(
            f"{before} and {after} did not measure the same thing:{said}\n--force compares them all the same",
            USAGE,
        )
    found = compared(one, other)
    if not found.pairs:
        fail(f"no task has a valid result in both {before} and {after}", USAGE)
    if junit is not None:
        from megaflow_server.jobs.junit import write_comparison

        write_comparison(junit, f"{before} to {after}", found)
    if as_json:
        print_json(_comparison_facts(found, differences))
    else:
        _print_comparison(found, before, after)
    if found.regressed:
        raise typer.Exit(NO)


def report(
    job: JobName,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Draw it: .html or .png. Default: printed alone"
        ),
    ] = None,
    server: LocalServer = None,
    as_json: AsJson = False,
) -> None:
    """Say how a job went in figures: pass@k, rewards, the time of each phase, how much ran at once."""
    import asyncio

    from megaflow_server.jobs.drawing import facts, lines, write_report
    from megaflow_server.jobs.report import histories, report_of
    from megaflow_server.jobs.results import gather

    with address_of(server) as address:
        from megaflow import Client

        with Client(address) as client:
            gathered = gather(client, job)
        ids = [one.task_id for one in gathered.results.values()]
        found = report_of(gathered, asyncio.run(histories(address, ids)))
    if out is not None:
        write_report(found, out)
    if as_json:
        print_json(facts(found))
        return
    for name, value in lines(found):
        typer.echo(f"{name:32} {value}")
    if out is not None:
        typer.echo(f"Drawn in {out}.")


def _print(gathered: Gathered) -> None:
    from megaflow_server.jobs.table import reward_of

    priced = any(one.known_cost for one in gathered.results.values())
    columns = ("id", "task", "reward", *(["USD"] if priced else []), "state", "why")
    rows: list[tuple[str, ...]] = []
    names = gathered.names
    for (index, _), one in sorted(gathered.results.items()):
        why = "" if one.failure is None else f"{one.failure.kind}: {one.failure.reason}"
        shown = reward_of(one) if one.valid else "no result"
        cost = ["–" if one.cost is None else f"{one.cost:.6g}"] if priced else []
        rows.append((one.task_id, names.get(index, ""), shown, *cost, one.state, _line(why)))
    for broken in gathered.broken:
        cost = ["–"] if priced else []
        rows.append(("", broken.name, "no result", *cost, "broken", _line(broken.reason)))
    print_table(columns, rows)
    rewards = [one.reward for one in gathered.results.values() if one.reward is not None]
    mean = f", mean reward {sum(rewards) / len(rewards):.4g}" if rewards else ""
    typer.echo(f"{len(rewards)} of {gathered.total} samples have a reward{mean}")


def _line(text: str) -> str:
    return " ".join(text.split())


def _facts(gathered: Gathered) -> dict[str, Any]:
    names = gathered.names
    return {
        "job": gathered.status.id,
        "name": gathered.status.name,
        "complete": gathered.status.complete,
        "whole": gathered.whole,
        "samples": gathered.total,
        "max_cost": gathered.status.max_cost,
        "spent": gathered.status.spent,
        "cost": gathered.cost,
        "known_cost": gathered.known_cost,
        "broken": [{"name": one.name, "reason": one.reason} for one in gathered.broken],
        "results": [
            {
                "id": one.task_id,
                "task": names.get(index, ""),
                "sample": one.sample,
                "state": one.state,
                "valid": one.valid,
                "reward": one.reward,
                "rewards": dict(one.rewards),
                "seed": one.seed,
                "retries": one.retries,
                "cost": one.cost,
                "known_cost": one.known_cost,
                "trajectory": one.trajectory,
                "failure": None
                if one.failure is None
                else {
                    "kind": one.failure.kind,
                    "phase": one.failure.phase,
                    "reason": one.failure.reason,
                },
            }
            for (index, _), one in sorted(gathered.results.items())
        ],
    }


def _print_comparison(found: Comparison, before: str, after: str) -> None:
    from megaflow_server.jobs.comparison import LEAST

    typer.echo(f"{before}: mean reward {found.before:.4g} over {len(found.pairs)} tasks")
    typer.echo(f"{after}: mean reward {found.after:.4g}")
    change = found.after - found.before
    verdict = (
        "a regression"
        if found.regressed
        else "better"
        if found.improved
        else f"too few samples to be sure of anything: run {LEAST} or more (-k)"
        if found.few
        else "no difference that is sure"
    )
    typer.echo(
        f"Difference {change:+.4g}, 95 % confidence {found.low:+.4g} to {found.high:+.4g}: {verdict}."
    )
    for title, pairs in (("worse", found.worse), ("better", found.better)):
        for pair in pairs[:_MOST]:
            typer.echo(
                f"  {title:6} {pair.difference:+.4g}  {pair.name}{' (flaky)' if pair.flaky else ''}"
            )
        if len(pairs) > _MOST:
            typer.echo(f"  and {len(pairs) - _MOST} more that are {title}")
    if flaky := [pair.name for pair in found.pairs if pair.flaky]:
        typer.echo(f"{len(flaky)} flaky tasks, whose samples differ: {', '.join(flaky[:_MOST])}")
    if found.lacking:
        typer.echo(
            f"{len(found.lacking)} tasks have no valid result in both, and are left out: "
            f"{', '.join(found.lacking[:_MOST])}"
        )


def _comparison_facts(found: Comparison, differences: list[str]) -> dict[str, Any]:
    def facts(pair: Pair) -> dict[str, Any]:
        return {"task": pair.name, "before": pair.before, "after": pair.after, "flaky": pair.flaky}

    return {
        "before": found.before,
        "after": found.after,
        "difference": found.after - found.before,
        "confidence_95": [found.low, found.high],
        "regressed": found.regressed,
        "improved": found.improved,
        "too_few_samples": found.few,
        "manifests_differ": differences,
        "lacking": found.lacking,
        "tasks": [facts(pair) for pair in found.pairs],
    }
