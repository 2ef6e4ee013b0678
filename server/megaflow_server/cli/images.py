"""`megaflow images build`: the images of tasks, before the first episode asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megaflow_server.cli.errors import NO
from megaflow_server.cli.options import AsJson

if TYPE_CHECKING:
    from megaflow_server.images import Outcome, Wanted

app = typer.Typer(help="Images of tasks.", no_args_is_help=True)

Tasks = Annotated[
    list[Path], typer.Argument(metavar="TASKS…", help="Folders of tasks, or a task's own folder.")
]
AtOnce = Annotated[
    int, typer.Option("--concurrency", "-n", min=1, help="How many are built side by side.")
]


@app.callback()
def _images() -> None:
    pass


@app.command("build")
def build(tasks: Tasks, concurrency: AtOnce = 4, as_json: AsJson = False) -> None:
    """Build or fetch the images that tasks need; those that are there already are left alone.

    The engine and its limits are those of [docker] in $MEGAFLOW_CONFIG, else in megaflow.toml here. Ends with 1
    where an image, or a task, is none.
    """
    from megaflow_server.images import plan

    wanted, wrong = plan(tasks)
    for error in wrong:
        typer.echo(f"Error: {error.message}", err=True)
    outcomes = asyncio.run(_build(wanted, concurrency, quiet=as_json)) if wanted else []
    failed = [one for one in outcomes if one.error is not None]
    for outcome in failed:
        assert outcome.error is not None
        typer.echo(f"Error: {', '.join(outcome.tasks)}: {outcome.error.message}", err=True)
    if as_json:
        from megaflow_server.cli.report import print_json

        print_json({"ok": not failed and not wrong, "images": list(map(_plain, outcomes))})
    else:
        there = len(outcomes) - len(failed)
        typer.echo(f"{there} of {len(outcomes)} images are there")
    if failed or wrong:
        raise typer.Exit(NO)


async def _build(wanted: Sequence[Wanted], at_once: int, *, quiet: bool) -> Sequence[Outcome]:
    from rich.console import Console

    from megaflow_server.backends.docker.building import DockerBuilds
    from megaflow_server.config import load
    from megaflow_server.config_file import find
    from megaflow_server.images import Builder

    console = Console(highlight=False, quiet=quiet)
    engine = DockerBuilds(load(find(), {}).docker.options())
    builder = Builder(engine, at_once=at_once)
    number = 0

    def done(outcome: Outcome) -> None:
        nonlocal number
        number += 1
        console.print(
            f"{number}/{len(wanted)} {outcome.how:7} {outcome.image} {outcome.seconds:.1f} s "
            f"({len(outcome.tasks)} of the tasks)",
            soft_wrap=True,
        )

    try:
        with console.status("…") as status:
            return await builder.have_all(
                wanted, lambda image, what: status.update(f"{image}: {what}"), done
            )
    finally:
        await builder.close()
        engine.close()


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "image": outcome.image,
        "tasks": list(outcome.tasks),
        "how": outcome.how,
        "seconds": round(outcome.seconds, 3),
        "error": None if outcome.error is None else outcome.error.message,
    }
