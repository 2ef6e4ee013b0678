"""Options that several commands have, spelled alike, and their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from megaflow_server.quantities import memory_of

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="ADDR",
        help="host:port or unix:/path. Without it: $MEGAFLOW_SERVER, else an embedded server.",
    ),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Whose tables [models.NAME] are meant. Default: $MEGAFLOW_CONFIG, else ./megaflow.toml, if there is one",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="JOB/INDEX or JOB/NAME, and .SAMPLE from the second sample on; JOB is an id or a name.",
    ),
]

EnvKwargs = Annotated[
    str,
    typer.Option(
        "--env-kwargs",
        metavar="JSON",
        help="""The environment's arguments, a JSON object: '{"max_steps": 10}'.""",
    ),
]


def env_kwargs_of(text: str) -> dict[str, Any]:
    """The value of --env-kwargs. Raises BadParameter for anything but a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--env-kwargs {text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(
            f'--env-kwargs {text!r} is no JSON object; write it as {{"name": value}}'
        )
    return value


def memory_option(text: str) -> int:
    """The value of an amount of memory. Raises BadParameter for what is none."""
    try:
        return memory_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
