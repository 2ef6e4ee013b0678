"""`megaflow reap`: what a run has left, found by its id and destroyed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megaflow_server.cli.errors import NO, USAGE, fail
from megaflow_server.cli.options import AsJson
from megaflow_server.cli.report import print_json

if TYPE_CHECKING:
    from collections.abc import Collection

    from megaflow_server.pool.reaper import Found
    from megaflow_server.runs import Run

RunId = Annotated[
    str,
    typer.Option(
        "--run",
        metavar="ID",
        help="The run, 16 hexadecimal characters: `megaflow pool ls` shows that of a server, and the label "
        "megaflow.run that of a container.",
    ),
]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend", metavar="NAME", help="Where to look; of docker, [docker] says which engine."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Whose table [docker] is meant. Default: $MEGAFLOW_CONFIG, else ./megaflow.toml, if there is one",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what there is.")]


def reap(
    run: RunId,
    backend: BackendName = "docker",
    config: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Destroy what a server that is gone has left: containers, images that were snapshots, its folder.

    A server does this by itself for those before it. Exit status 1 where something could not be destroyed.
    """
    from megaflow_server import runs

    state = runs.state_folder()
    runs.check_id(run)
    if runs.lives(state, run):
        known = runs.find(state, run)
        pid = f", process {known.pid}" if known else ""
        fail(f"run {run}: its server is there{pid}; end it first", USAGE)
    record = runs.find(state, run)
    places = record.places if record is not None else ()
    found = asyncio.run(_reap(run, backend, config, places, dry_run=dry_run))
    if record is not None:
        found.folder = _local(record, dry_run=dry_run)
        if not dry_run and not found.kept:
            runs.forget(state, record)
    _tell(run, found, dry_run=dry_run, as_json=as_json)
    if found.kept:
        raise typer.Exit(NO)


async def _reap(
    run: str, name: str, config: Path | None, places: Collection[str], *, dry_run: bool
) -> Found:
    from megaflow_server.backends import get_backend
    from megaflow_server.config import load
    from megaflow_server.config_file import find
    from megaflow_server.pool import reaper

    options = load(config or find(), {}).docker.options() if name == "docker" else None
    backend = get_backend(name, options)
    try:
        found = await (reaper.find if dry_run else reaper.reap)(backend, run)
    finally:
        await backend.close()
    found.kept += [
        f"what it has at {place!r}, where nobody looked: give --config the file that its server had, or DOCKER_HOST"
        for place in places
        if place != backend.place
    ]
    return found


def _local(record: Run, *, dry_run: bool) -> str | None:
    from megaflow_server.pool.reaper import remove_local

    there = Path(record.folder).exists()
    if not dry_run:
        remove_local(record)
    return record.folder if there else None


def _tell(run: str, found: Found, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "run": run,
                "instances": found.instances,
                "images": found.images,
                "folder": found.folder,
                "kept": found.kept,
            }
        )
        return
    if found.is_empty and not found.kept:
        typer.echo(f"run {run}: nothing is left of it")
    what = "is there" if dry_run else "destroyed"
    folder = [found.folder] if found.folder else []
    for kind, names in (("instance", found.instances), ("image", found.images), ("folder", folder)):
        for name in names:
            typer.echo(f"{kind} {name}: {what}")
    for name in found.kept:
        typer.echo(f"is left: {name}", err=True)
