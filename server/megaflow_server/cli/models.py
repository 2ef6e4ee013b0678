"""`megaflow models`: what a configuration names or a server has, and whether it answers."""

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
    from megaflow import ModelInfo
    from megaflow_server.models.catalogue import ServedModel
    from megaflow_server.models.tables import ModelTable
    from megaflow_server.models.trial import Trial

app = typer.Typer(
    no_args_is_help=True, help="The models that a configuration names, or a server has."
)

ModelServer = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="ADDR",
        help="host:port or unix:/path: the models of a server that runs. Default: those of the configuration",
    ),
]


@app.command("list")
def list_models(
    config: ConfigFile = None, server: ModelServer = None, as_json: AsJson = False
) -> None:
    """List models: what each is, what it costs, and what is wrong with it, or how it stands at a server."""
    if server is not None:
        _alone(config)
        _list_served(server, as_json)
        return
    path = _path(config)
    rows = [_row(name, table) for name, table in _tables(path).items()]
    if as_json:
        print_json(rows)
    elif rows:
        _print_table(rows, "replicas")
    else:
        typer.echo(f"{path} names no models: a table [models.NAME] with a kind is one.")
    if any(row["fault"] for row in rows):
        raise typer.Exit(NO)


@app.command("test")
def try_model(
    name: Annotated[str, typer.Argument(help="The model.")],
    config: ConfigFile = None,
    server: ModelServer = None,
    prompt: Annotated[str, typer.Option(help="What it is asked.")] = "Say OK.",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of its answer.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Ask a model something, and say what came: the answer, token ids, log-probs, versions, times, cost."""
    if server is not None:
        _alone(config)
        trial = asyncio.run(_ask_served(server, name, prompt, max_tokens))
    else:
        trial = asyncio.run(_ask_configured(_path(config), name, prompt, max_tokens))
    if as_json:
        print_json(dataclasses.asdict(trial))
    else:
        _print_trial(trial)
    if trial.error is not None:
        raise typer.Exit(NO)


async def _ask_configured(path: Path, name: str, prompt: str, max_tokens: int) -> Trial:
    from megaflow_server.models.catalogue import made
    from megaflow_server.models.trial import tried

    tables = _tables(path)
    if name not in tables:
        fail(f"{path} has no model {name!r}; {_known(tables)}", USAGE)
    served = made({name: tables[name]})[name]
    try:
        return await tried(served, prompt, max_tokens)
    finally:
        await served.model.close()


async def _ask_served(server: str, name: str, prompt: str, max_tokens: int) -> Trial:
    from megaflow import AsyncClient
    from megaflow_server.models.catalogue import ServedModel
    from megaflow_server.models.trial import tried

    async with AsyncClient(server) as client:
        infos = {info.name: info for info in await client.models()}
        if name not in infos:
            fail(f"{server} has no model {name!r}; {_known(infos)}", USAGE)
        info = infos[name]
        served = ServedModel(name, info.kind, client.model(name), info.price)
        return dataclasses.replace(await tried(served, prompt, max_tokens), model=info.model)


def _known(names: Iterable[str]) -> str:
    known = ", ".join(names)
    return f"known are {known}" if known else "it names none"


def _alone(config: Path | None) -> None:
    if config is not None:
        fail(
            "--config with --server: a server has a configuration of its own; leave one out", USAGE
        )


def _list_served(server: str, as_json: bool) -> None:
    from megaflow import Client

    with Client(server) as client:
        infos = client.models()
    if as_json:
        print_json([dataclasses.asdict(info) for info in infos])
    else:
        _print_table([_served_row(info) for info in infos], "state")


def _served_row(info: ModelInfo) -> dict[str, Any]:
    version = "" if info.weight_version is None else f", weights {info.weight_version}"
    return {**dataclasses.asdict(info), "state": f"{info.state}{version}", "fault": None}


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


def _print_table(rows: Iterable[dict[str, Any]], how: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="Prices: USD for a million tokens.")
    for heading in ("name", "kind", "model", how):
        table.add_column(heading, overflow="fold")
    for heading in ("input", "output"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        price = row["price"] or {}
        costs = (price.get(f"{way}_per_million") for way in ("input", "output"))
        told = row[how] if isinstance(row[how], str) else "\n".join(row[how]) or "-"
        shown = ("-" if cost is None else f"{cost:g}" for cost in costs)
        table.add_row(row["name"], row["kind"], row["model"] or "-", told, *shown)
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
