"""`megaflow serve`: a server for environments and models, in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from megaflow_server.cli.errors import USAGE, fail
from megaflow_server.cli.options import memory_option

Listen = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDR",
        help="host:port or unix:/path; several are fine. Port 0 chooses a free one. "
        "Default: 127.0.0.1:7447",
    ),
]
Served = Annotated[
    str | None,
    typer.Option(
        "--serve",
        metavar="SERVICES",
        help="environments, models, or environments,models. With models alone there are no workers, and no tasks. "
        "Default: both, models where the configuration has some",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The tokens that open this server over TCP; `megaflow tokens create` makes it, SIGHUP reads it "
        "again. Default: programs of this user alone, over loopback",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The server's certificate, with its issuers'; PEM."),
]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's key; PEM.")]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Let other machines connect without TLS, because a mesh or a tunnel encrypts: else whoever is on "
        "the way reads their tokens and all else. Tokens are needed all the same.",
    ),
]
DataHost = Annotated[
    str | None,
    typer.Option(
        metavar="HOST",
        help="The name or address under which other machines reach the workers on this one, at free ports and "
        "with TLS. Default: the server relays to them",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that run environments, for each principal. Default: one per usable CPU",
    ),
]
MaxWorkers = Annotated[
    int | None,
    typer.Option(min=1, help="Those of all principals together. Default: four times --workers"),
]
MaxSessionsPerWorker = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Sessions that a worker hosts before a fresh one takes its place. Default: no limit",
    ),
]
WorkerMemoryLimit = Annotated[
    int | None,
    typer.Option(
        metavar="AMOUNT",
        parser=memory_option,
        help="What a worker may take with all its processes: 512Mi, 4Gi. Default: no limit",
    ),
]
DrainGrace = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="What sessions get to end after SIGTERM, while no new ones are opened. Default: 25",
    ),
]
BackendName = Annotated[
    str | None, typer.Option(metavar="NAME", help="What starts workers. Default: process")
]
WorkerImage = Annotated[
    str | None,
    typer.Option(
        metavar="IMAGE",
        help="What workers are containers of, with --backend docker: an image with megaflow in it.",
    ),
]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="A module that registers environments, agents and models; several are fine.",
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="What keeps tasks: sqlite:///PATH or postgresql://…. Default: none, and no tasks are taken",
    ),
]
Runners = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that execute tasks; 0 where `megaflow runner` does. Default: one, where there is a store",
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Attempts at once, of each of them. Default: 64"),
]
StepTimeout = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="SECONDS",
        help="What a step may take in tasks that they execute, a verifier's included. Default: 3600",
    ),
]
Trajectories = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URL",
        help="Where trajectories go, and sessions of models. Default: the folder `trajectories` beside an SQLite "
        "store, else in the user's state folder; sessions of models nowhere",
    ),
]
Http = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR",
        help="host:port of health, metrics and models over HTTP. Default: nowhere",
    ),
]
AllowImport = Annotated[
    bool, typer.Option("--allow-import", help="Let clients name modules to import.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Options here win over what it says. Default: $MEGAFLOW_CONFIG, else ./megaflow.toml, if there is one",
    ),
]


def serve(
    listen: Listen = None,
    served: Served = None,
    token_file: TokenFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
    data_host: DataHost = None,
    workers: Workers = None,
    max_workers: MaxWorkers = None,
    max_sessions_per_worker: MaxSessionsPerWorker = None,
    worker_memory_limit: WorkerMemoryLimit = None,
    drain_grace: DrainGrace = None,
    backend: BackendName = None,
    store: Store = None,
    runners: Runners = None,
    concurrency: Concurrency = None,
    step_timeout: StepTimeout = None,
    trajectories: Trajectories = None,
    http: Http = None,
    worker_image: WorkerImage = None,
    modules: Modules = None,
    allow_import: AllowImport = False,
    config: ConfigFile = None,
) -> None:
    """Serve environments and models until Ctrl-C or SIGTERM."""
    options = {
        "listen": listen,
        "serve": None if served is None else [each.strip() for each in served.split(",")],
        "token_file": token_file,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "insecure": insecure or None,
        "data_host": data_host,
        "workers": workers,
        "max_workers": max_workers,
        "max_sessions_per_worker": max_sessions_per_worker,
        "worker_memory_limit": worker_memory_limit,
        "drain_grace": drain_grace,
        "backend": backend,
        "store": store,
        "runners": runners,
        "concurrency": concurrency,
        "step_timeout": step_timeout,
        "trajectories": trajectories,
        "http": http,
        "worker_image": worker_image,
        "modules": modules,
        "allow_import": allow_import or None,
    }
    _serve(config, options)


def _serve(config: Path | None, options: Mapping[str, object]) -> None:
    # megaflow switches gRPC's fork handlers on, for clients; in a server they would stop environments
    # that fork. gRPC reads both once, when it is imported.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    # gRPC would log that it cannot bind an address, which is said below in our own words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from megaflow.errors import MegaflowError
    from megaflow_server import standalone
    from megaflow_server.config import load
    from megaflow_server.config_file import find

    try:
        path = config or find()
        settings = load(path, options)

        def announce(addresses: Sequence[str], http: str, backends: Sequence[str]) -> None:
            server = settings.server
            size = f"{server.workers} worker{'s' if server.workers > 1 else ''}"
            what, how = "environments", f" ({size}, backend {server.backend})"
            if what not in server.served:
                what, how = "models", ""
            for address in addresses:
                typer.echo(f"Serving {what} at {address}{how}. Ctrl-C ends it.")
            if server.store is not None:
                typer.echo(f"Tasks are kept in {standalone.shown(server.store)}.")
            if http:
                typer.echo(f"Health and metrics at {http}.")
            if config is None and path is not None:
                typer.echo(f"Configured by {path}")
            for about in backends:
                typer.echo(about)

        standalone.main(settings, announce, path)
    except MegaflowError as error:
        # Whatever keeps a server from starting is in what it was told to do.
        fail(error.message, USAGE)
    sys.stdout.flush()
    # Nothing is left to do, and taking all of gRPC and its threads apart would keep whoever waits for the end.
    os._exit(0)
