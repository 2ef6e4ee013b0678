"""`megaflow export`: trajectories as JSON lines, Parquet, ATIF or ShareGPT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megaflow_server.cli.errors import NO
from megaflow_server.cli.reaching import LocalServer, client_of

if TYPE_CHECKING:
    from megaflow.trajectory import TrajectoryReader

# Samples without a trajectory that are told one by one.
_MOST_ABSENT = 20


def export(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB|PATH…",
            help="A job's id or name; or trajectories, folders of them, and URLs, such as s3://…. What has a / in it "
            "or ends with .mft is a path, and so is a folder with trajectories.",
        ),
    ],
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="jsonl, parquet, atif or sharegpt")
    ] = "jsonl",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A file; for parquet and atif a folder. Default for the others: standard output",
        ),
    ] = None,
    server: LocalServer = None,
) -> None:
    """Export trajectories: of a job those of its results, else those that are named.

    Ends with 1 where one is damaged, or is not where a result says; a torn tail is a warning.
    """
    from megaflow.trajectory.export import check
    from megaflow.trajectory.export import export as write

    check(format, out)  # before a server is asked, and perhaps started
    damaged = 0

    def report(trajectory: TrajectoryReader) -> None:
        nonlocal damaged
        damaged += trajectory.damaged
        for each in trajectory.dropped:
            kind = "torn tail" if each.torn else "damaged"
            typer.echo(f"Warning: {trajectory.path}: {kind}: {each} (dropped)", err=True)

    found, absent = _found(sources, server)
    write(found, format, out, report=report)
    if out is not None:
        typer.echo(f"Exported {len(found)} trajectories to {out}.", err=True)
        if out.is_file() and not out.stat().st_size:
            typer.echo(f"There is nothing in it: none of them has what {format} is of.", err=True)
    if damaged:
        typer.echo(f"{damaged} of them are damaged: the rest of them is exported.", err=True)
    _tell_absent(absent)
    if damaged or absent:
        raise typer.Exit(NO)


def _found(sources: Sequence[str], server: str | None) -> tuple[list[str], list[str]]:
    """The paths of all trajectories, and what a job lacks. Raises NotFound for what is neither."""
    from megaflow.errors import NotFound
    from megaflow.trajectory import find

    found: list[str] = []
    absent: list[str] = []
    for source in sources:
        try:
            found += find(source)
        except NotFound:
            if "/" in source or source.endswith(".mft"):
                raise
            _add_job(source, server, found, absent)
    return found, absent


def _add_job(job: str, server: str | None, found: list[str], absent: list[str]) -> None:
    from megaflow.errors import NotFound
    from megaflow_server.jobs.results import gather
    from megaflow_server.jobs.trajectories import trajectories_of

    with client_of(server) as client:
        try:
            gathered = gather(client, job)
        except NotFound as error:
            message = f"{error.message}; nor is there a trajectory (*.mft) at {job}"
            raise NotFound(message) from None
    lying = trajectories_of(gathered)
    if not lying.paths:
        why = lying.absent[0] if lying.absent else "none of its tasks has ended"
        raise NotFound(f"job={job!r} has no trajectory to export: {why}")
    found += lying.paths
    absent += lying.absent
    if not gathered.status.complete:
        left = gathered.status.total - gathered.status.done
        typer.echo(f"{job} still runs: {left} samples have not ended, and are left out.", err=True)


def _tell_absent(absent: Sequence[str]) -> None:
    for each in absent[:_MOST_ABSENT]:
        typer.echo(f"Warning: {each}", err=True)
    if len(absent) > _MOST_ABSENT:
        typer.echo(f"and {len(absent) - _MOST_ABSENT} more", err=True)
    if absent:
        typer.echo(f"{len(absent)} samples have no trajectory here.", err=True)
