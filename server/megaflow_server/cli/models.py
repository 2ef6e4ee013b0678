"""`megaflow models`: what a configuration names, and whether it answers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megaflow_server.cli.errors import NO, USAGE, fail
from megaflow_server.cli.options import AsJson, ConfigFile
from megaflow_server.cli.report import print_json

if TYPE_CHECKING:
    from megaflow_server.models.catalogue import ServedModel
    from megaflow_server.models.tables import ModelTable
    from megaflow_server.models.trial import Trial

app = typer.Typer(no_args_is_help=True, help="The models that a configuration names.")


@app.command("list")
def list_models(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the models of a configuration: what each is, what it costs, and what is wrong with it."""
    path = _path(config)
    rows = [_row(name, table) for name, table in _tables(path).items()]
    if as_json:
        print_json(rows)
    elif rows:
        _print_table(rows)
    else:
        typer.echo(f"{path} names no models: a table [models.NAME] with a kind is one.")
    if any(row["fault"] for row in rows):
        raise typer.Exit(NO)


@app.command("test")
def try_model(
    name: Annotated[str, typer.Argument(help="The model.")],
    config: ConfigFile = None,
    prompt: Annotated[str, typer.Option(help="What it is asked.")] = "Say OK.",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of its answer.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Ask a model something, and say what came: the answer, token ids, log-probs, versions, times, cost."""
    from megaflow_server.models.catalogue import made
    from megaflow_server.models.trial import tried

    path = _path(config)
    tables = _tables(path)
    if name not in tables:
        known = f"known are {', '.join(tables)}" if tables else "it names none"
        fail(f"{path} has no model {name!r}; {known}", USAGE)

    async def ask() -> Trial:
        served = made({name: tables[name]})[name]
        try:
            return await tried(served, prompt, max_tokens)
        finally:
            await served.model.close()

    trial = asyncio.run(ask())
    if as_json:
        print_json(dataclasses.asdict(trial))
    else:
        _print_trial(trial)
    if trial.error is not None:
        raise typer.Exit(NO)


def _path(config: Path | None) -> Path:
    from megaflow_server.config_file import VARIABLE, find

    path = config or find()
    if path is None:
        fail(f"no megaflow.toml is here, and ${VARIABLE} names none: give --config FILE", USAGE)
    return path


def _tables(config: Path) -> dict[str, ModelTable]:
    from megaflow_server.config import load

    return load(config, {}).models


def _row(name: str, table: ModelTable) -> dict[str, Any]:
    from megaflow.errors import InvalidArgument
    from megaflow_server.models.catalogue import made

    row: dict[str, Any] = {"name": name, "kind": table.kind, "model": None, "price": None}
    row["replicas"] = list(table.settings.get("base_urls", ()))
    row["fault"] = None
    if table.price is not None:
        row["price"] = dataclasses.asdict(table.price.price())
    try:
        served: ServedModel = made({name: table})[name]
        row["model"] = served.model.name
    except InvalidArgument as error:
        row["fault"] = error.message
    return row


def _print_table(rows: Iterable[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="Prices: USD for a million tokens.")
    for heading in ("name", "kind", "model", "replicas"):
        table.add_column(heading, overflow="fold")
    for heading in ("input", "output"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        price = row["price"] or {}
        costs = (price.get(f"{way}_per_million") for way in ("input", "output"))
        replicas = "\n".join(row["replicas"]) or "-"
        shown = ("-" if cost is None else f"{cost:g}" for cost in costs)
        table.add_row(row["name"], row["kind"], row["model"] or "-", replicas, *shown)
    Console().print(table)
    for row in rows:
        if row["fault"]:
            typer.echo(row["fault"])


def _print_trial(trial: Trial) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in dataclasses.asdict(trial).items():
        if value is not None:
            table.add_row(name.replace("_", " "), _said(value))
    Console().print(table)


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
