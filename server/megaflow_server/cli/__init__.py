"""The `megaflow` command: one module per group of sub-commands.

What belongs here: options, composition of a server from its parts, and the printing of results. What a
command does with a server it does through the SDK. These modules import megaflow, gymnasium and gRPC where
they use them, so that `megaflow --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from megaflow_server.cli import (
    agents,
    doctor,
    envs,
    export,
    images,
    jobs,
    models,
    pool,
    reap,
    results,
    run,
    runner,
    serve,
    shell,
    simulate,
    stop,
    tokens,
)
from megaflow_server.cli.errors import exit_status, explain

__all__ = ["app", "main"]

app = typer.Typer(
    name="megaflow",
    help="Environments behind a server, used as if they were local.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("run")(run.run)
app.command("attach")(run.attach)
app.command("rescore")(run.rescore)
app.command("stop")(stop.stop)
app.command("results")(results.results)
app.command("logs")(results.logs)
app.command("compare")(results.compare)
app.command("report")(results.report)
app.command("runner")(runner.runner)
app.command("ps")(jobs.ps)
app.command("why")(jobs.why)
app.command("cancel")(jobs.cancel)
app.add_typer(agents.app, name="agents")
app.add_typer(envs.app, name="envs")
app.add_typer(images.app, name="images")
app.add_typer(models.app, name="models")
app.add_typer(tokens.app, name="tokens")
app.add_typer(pool.app, name="pool")
app.command("reap")(reap.reap)
app.command("shell")(shell.shell)
app.command("doctor")(doctor.doctor)
app.command("simulate")(simulate.simulate)
app.command("export")(export.export)


@app.command(
    "bench",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def _bench(context: typer.Context) -> None:
    """Measure megaflow on this machine."""
    # Reached through a command of its own, since importing what it compares takes a second.
    from megaflow_server.cli.bench import app as bench

    bench(args=context.args, prog_name="megaflow bench")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"megaflow {version('megaflow')}")
        except PackageNotFoundError:
            typer.echo("megaflow, from a source tree that is not installed")
        raise typer.Exit


@app.callback()
def _megaflow(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with these arguments, else with the process's; ends with SystemExit.

    Exit status: 0 done; 1 done, and the answer is no; 2 wrong usage or bad input; 3 the server cannot be
    reached or refused; 130 interrupted by Ctrl-C.
    """
    # Names of modules are looked up in the folder that the command runs in, too, as `python -m` would; last,
    # so that it shadows nothing that is installed.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        app(args=arguments, prog_name="megaflow")
    except Exception as error:
        message = explain(error)
        if message is None:  # a fault of ours: its traceback is what a report needs
            raise
        typer.echo(f"Error: {message}", err=True)
        sys.exit(exit_status(error))
