"""`megaflow runner`: a process that executes tasks, in the foreground."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megaflow_server.cli.errors import USAGE, fail
from megaflow_server.cli.options import ConfigFile, memory_option

if TYPE_CHECKING:
    from megaflow_server.models.tables import ModelTable

Concurrency = Annotated[int, typer.Option(min=1, metavar="N", help="Attempts at once.")]
Trajectories = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URL",
        help="Where trajectories go. Default: the folder `trajectories` in the user's state folder",
    ),
]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="A module that registers agents and models; several are fine.",
    ),
]
AllowImport = Annotated[
    bool,
    typer.Option("--allow-import", help="Let tasks name agents and models as module:Class."),
]
Cpu = Annotated[
    float | None,
    typer.Option(
        min=0, help="Cores that its attempts may request together. Default: those of this machine"
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        metavar="AMOUNT",
        parser=memory_option,
        help="What its attempts may request together: 64Gi. Default: that of this machine",
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        min=0, metavar="SECONDS", help="What attempts get to end after SIGTERM, while none begin."
    ),
]


def runner(
    server: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="host:port or unix:/path. Default: $MEGAFLOW_SERVER"),
    ] = None,
    concurrency: Concurrency = 64,
    trajectories: Trajectories = None,
    modules: Modules = None,
    allow_import: AllowImport = False,
    cpu: Cpu = None,
    memory: Memory = None,
    env_start_timeout: Annotated[
        float,
        typer.Option(min=0.001, metavar="SECONDS", help="What making an environment may take."),
    ] = 600.0,
    reset_timeout: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="What a reset may take.")
    ] = 600.0,
    step_timeout: Annotated[
        float,
        typer.Option(
            min=0.001, metavar="SECONDS", help="What a step may take, a verifier's included."
        ),
    ] = 3600.0,
    grace: Grace = 25.0,
    config: ConfigFile = None,
    pins: Annotated[Path | None, typer.Option(hidden=True)] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Execute tasks of a server until Ctrl-C or SIGTERM.

    Its token ($MEGAFLOW_TOKEN) needs the scopes run and sessions.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from megaflow.embedded import configured_server
    from megaflow_server.cpus import usable_cpus
    from megaflow_server.runner.main import RunnerSettings, main
    from megaflow_server.runner.runner import Capacity
    from megaflow_server.runs import state_folder

    address = server or configured_server()
    if address is None:
        fail(
            "--server ADDR names the server whose tasks it executes; or set $MEGAFLOW_SERVER", USAGE
        )
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    settings = RunnerSettings(
        server=address,
        capacity=Capacity(
            concurrency, usable_cpus() if cpu is None else cpu, room if memory is None else memory
        ),
        trajectories=trajectories or str(state_folder() / "trajectories"),
        spool=state_folder() / "spool",
        modules=modules or (),
        models={} if pins is not None else _models(config),
        pins=pins,
        imports=allow_import,
        deadlines={
            "env_start_timeout": env_start_timeout,
            "reset_timeout": reset_timeout,
            "step_timeout": step_timeout,
        },
        grace=grace,
        parent=parent,
    )
    try:
        main(settings)
    except ImportError as error:
        fail(f"--import: {error}", USAGE)
    except ProcessLookupError:
        raise typer.Exit from None  # the server that started it is gone


def _models(config: Path | None) -> Mapping[str, ModelTable]:
    """Those of the configuration. Raises InvalidArgument where one cannot be made."""
    import asyncio

    from megaflow.errors import InvalidArgument
    from megaflow_server.config import load
    from megaflow_server.config_file import find
    from megaflow_server.models.catalogue import check

    path = config or find()
    if path is None:
        return {}
    tables = load(path, {}).models
    try:
        asyncio.run(check(tables))
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.message}") from error
    return tables
