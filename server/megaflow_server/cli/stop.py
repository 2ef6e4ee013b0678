"""`megaflow stop`: the end of the user's local server, which `megaflow run` starts."""

from __future__ import annotations

from typing import Annotated

import typer

from megaflow_server.cli.errors import NO, fail

Force = Annotated[bool, typer.Option("--force", help="Though it has tasks that have not ended.")]


def stop(force: Force = False) -> None:
    """End the local server, so that the next one has your code and settings as they are by then.

    What it keeps stays. What has not ended is run by the next one, from its beginning where it was under way.
    """
    from megaflow.client import Client
    from megaflow_server.jobs.local import end, running_server

    server = running_server()
    if server is None:
        typer.echo("No local server runs.")
        return
    with Client(server.address) as client:
        left = sum(job.total - job.done for job in client.jobs())
    if left and not force:
        fail(
            f"it has {left} tasks that have not ended, see `megaflow ps`; with --force they are run by the next local "
            "server, from their beginning where they are under way",
            NO,
        )
    end(server)
    typer.echo("The local server has ended.")
