"""`megaflow bench`: how fast megaflow is on this machine, beside what one would use without it."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from megaflow_server.bench.machine import this_machine
from megaflow_server.bench.report import as_json, as_table
from megaflow_server.bench.vector import Plan, compare

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _bench() -> None:
    """Measures megaflow on this machine."""


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise typer.BadParameter(
            f"{text!r}: give whole numbers from 1, with commas, such as 1,8,64",
            param_hint="--num-envs",
        )
    return sizes


@app.command()
def vector(
    env: Annotated[str, typer.Option(help="The environment's id.")] = "CartPole-v1",
    num_envs: Annotated[
        str, typer.Option(help="How many sub-environments; several with commas.")
    ] = "1,8,64,256",
    seconds: Annotated[float, typer.Option(min=0.01, help="Length of one measurement.")] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each contender.")] = 5,
    server: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="host:port or unix:/path; else an embedded server."),
    ] = None,
    as_json_: Annotated[
        bool, typer.Option("--json", help="Print JSON, with every measurement.")
    ] = False,
) -> None:
    """Steps per second of a remote vector environment, beside gymnasium's SyncVectorEnv and AsyncVectorEnv."""
    plan = Plan(env, _sizes(num_envs), seconds, repeats, server)
    machine = this_machine()
    # Redrawn between measurements alone: a thread that animates it would be measured too.
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        comparisons = list(compare(plan, lambda text: live.update(text, refresh=True)))
    if as_json_:
        typer.echo(json.dumps(as_json(plan, machine, comparisons), indent=2))
    else:
        Console().print(as_table(plan, machine, comparisons))
