"""`megaflow pool`: what a server has waiting, and why no more."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from megaflow_server.cli.options import AsJson, Server
from megaflow_server.cli.report import print_json

if TYPE_CHECKING:
    from megaflow.pools import PoolInfo

# Where nobody looks at it: nothing is cut.
_FILE_WIDTH = 200
_LEAST_OF_IMAGE = 10
_COLUMNS = (
    "template",
    "mode",
    "ready",
    "leased",
    "coming",
    "waiting",
    "max",
    "create",
    "reset",
)

app = typer.Typer(no_args_is_help=True, help="The sandboxes that a server has waiting.")


@app.callback()
def _pool() -> None:
    pass


@app.command("ls")
def list_pools(server: Server = None, as_json: AsJson = False) -> None:
    """List the pools of a server: how many sandboxes are where, and what goes wrong."""
    from megaflow.client import Client

    with Client(server) as client:
        pools = client.pools()
    if as_json:
        print_json([dataclasses.asdict(one) for one in pools])
    elif pools:
        _print_table(pools)
    else:
        typer.echo(
            "This server has no pools: nobody has asked for a sandbox, and no template has a minimum."
        )


def _print_table(pools: list[PoolInfo]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    rows = [_row(one) for one in pools]
    # Of images as much as there is room for, the end of it: that tells them apart.
    rest = sum(max(map(len, column)) + 1 for column in zip(_COLUMNS, *rows, strict=True))
    room = max(_LEAST_OF_IMAGE, console.width - rest)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), caption=f"run {pools[0].run}")
    for name in (_COLUMNS[0], "image", *_COLUMNS[1:]):
        table.add_column(
            name, justify="left" if name in ("template", "image", "mode") else "right", no_wrap=True
        )
    for one, (template, *others) in zip(pools, rows, strict=True):
        image = one.image or "-"
        table.add_row(template, image if len(image) <= room else f"…{image[1 - room :]}", *others)
    console.print(table)
    for one in pools:
        if trouble := one.breaker or one.fault:
            typer.echo(f"{one.template}{f' ({one.image})' if one.image else ''}: {trouble}")


def _row(one: PoolInfo) -> tuple[str, ...]:
    """What stands in `_COLUMNS`."""
    coming = one.creating + one.resetting
    counts = (f"{one.ready}/{one.target}", one.leased, coming, one.waiting, one.max)
    seconds = map(_seconds, (one.create_seconds, one.reset_seconds))
    return (one.template, one.mode, *map(str, counts), *seconds)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
