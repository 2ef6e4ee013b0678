"""The server that commands about tasks ask: the one that is named, else the user's local one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from megaflow import Client

LocalServer = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="ADDR",
        help="host:port or unix:/path. Without it: $MEGAFLOW_SERVER, else a local server that goes on without this "
        "command.",
    ),
]


def named(server: str | None) -> str | None:
    """The server of the option or of the environment; None for the local one."""
    return server or os.environ.get("MEGAFLOW_SERVER") or None


@contextlib.contextmanager
def address_of(server: str | None) -> Iterator[str]:
    """Where it is; the local one is started where it does not run, to look into its store."""
    from rich.console import Console

    from megaflow_server.jobs.running import reached

    with reached(named(server), None, Console(stderr=True)) as address:
        yield address


@contextlib.contextmanager
def client_of(server: str | None) -> Iterator[Client]:
    """A client of it."""
    from megaflow import Client

    with address_of(server) as address, Client(address) as client:
        yield client
