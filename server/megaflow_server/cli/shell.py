"""`megaflow shell`: a person looks into the sandbox of a session or task, or into what a snapshot holds."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shlex
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from megaflow_server.cli.errors import NO, USAGE, fail
from megaflow_server.cli.options import AsJson
from megaflow_server.cli.reaching import LocalServer, address_of, client_of
from megaflow_server.cli.report import print_json

if TYPE_CHECKING:
    from megaflow.client import Client
    from megaflow.inside import AsyncTerminal, SandboxInfo
    from megaflow.sandbox import Output

_CHUNK = 1 << 16

Id = Annotated[
    str | None,
    typer.Argument(
        metavar="[SESSION|JOB/TASK|SNAPSHOT]",
        help="A task as `megaflow why` takes it. Without one: list what can be looked into.",
    ),
]
Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- COMMAND…]",
        help="Run this instead of a shell, without a terminal and without input. One argument is a line of shell.",
    ),
]
Which = Annotated[
    str, typer.Option("--sandbox", metavar="NAME", help="Which one, where there are several.")
]
User = Annotated[
    str, typer.Option("--user", metavar="USER", help="Without it: whom the session's phase has.")
]
Folder = Annotated[str, typer.Option("--cwd", metavar="PATH", help="A folder in the sandbox.")]
Drop = Annotated[
    bool,
    typer.Option("--drop", help="Let go of what was kept of a session or task that is over."),
]
AtTerminal = Annotated[bool, typer.Option("-t", "--tty", help="Run COMMAND at a terminal.")]


def shell(
    id: Id = None,
    command: Command = None,
    sandbox: Which = "",
    user: User = "",
    cwd: Folder = "",
    at_terminal: AtTerminal = False,
    drop: Drop = False,
    server: LocalServer = None,
    as_json: AsJson = False,
) -> None:
    """Look into the sandbox of a session or task, one that was kept (keep="failed", run --keep), or a snapshot's.

    Exit status: that of the shell or COMMAND. What is changed in a session's sandbox, its environment sees; what is
    changed in a snapshot's is thrown away. A sandbox that was looked into is not used again after its session.
    """
    if drop:
        _drop(server, id, command)
        return
    if id is None:
        _list(server, as_json=as_json)
        return
    line = command[0] if command and len(command) == 1 else shlex.join(command or ())
    if line and not at_terminal:
        status = _run(server, id, line, sandbox, user, cwd)
    else:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            fail(f"this is no terminal: give a command, megaflow shell {id} -- COMMAND", USAGE)
        with address_of(server) as address:
            with client_of(address) as client:
                id = _meant(client, id)
            status = asyncio.run(_sit(address, id, line, sandbox, user, cwd))
    raise typer.Exit(status)


def _drop(server: str | None, id: str | None, command: list[str] | None) -> None:
    if id is None or command:
        fail("--drop takes the id of a session or task, and no command", USAGE)
    with client_of(server) as client:
        id = _meant(client, id)
        kept = [
            one for one in client.sandboxes() if one.kind == "kept" and id in (one.id, one.task)
        ]
        if not kept:
            fail(f"nothing is kept of {id!r}: `megaflow shell` lists what there is", NO)
        client.drop_sandboxes(id)
    typer.echo(f"Gone: {len(kept)} sandbox{'' if len(kept) == 1 else 'es'} of {id}.")


def _list(server: str | None, *, as_json: bool) -> None:
    with client_of(server) as client:
        found = client.sandboxes()
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
    elif found:
        _print_table(found)
    else:
        typer.echo("You have no session, no task and no snapshot with a sandbox on this server.")


def _print_table(found: list[SandboxInfo]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 200  # nothing is cut where nobody looks
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    names = ("id", "kind", "task", "sandbox", "owner", "environment", "template", "image")
    for name in names:
        table.add_column(name, no_wrap=name in ("id", "task"))
    table.add_column("left", justify="right")
    for one in found:
        left = "-" if one.left is None else f"{one.left:.0f} s"
        table.add_row(*(getattr(one, name) or "-" for name in names), left)
    console.print(table)


def _run(server: str | None, id: str, line: str, sandbox: str, user: str, cwd: str) -> int:
    with client_of(server) as client:
        ended = client.run_inside(_meant(client, id), line, sandbox=sandbox, user=user, cwd=cwd)
    _put(sys.stdout, ended.stdout)
    _put(sys.stderr, ended.stderr)
    return ended.exit_code


def _meant(client: Client, id: str) -> str:
    """The id of a task for what people call it; any other as it is."""
    if "/" not in id:
        return id
    from megaflow_server.jobs.task_names import find_task

    return find_task(client, id).id


def _put(file: TextIO, output: Output) -> None:
    data, cut = bytes(output), output.cut
    if output.omitted:
        data = data[:cut] + f"\n[{output.omitted} bytes are left out]\n".encode() + data[cut:]
    file.buffer.write(data)
    file.flush()


async def _sit(server: str, id: str, line: str, sandbox: str, user: str, cwd: str) -> int:
    from megaflow.async_client import AsyncClient

    columns, rows = shutil.get_terminal_size()
    term = os.environ.get("TERM", "xterm")
    async with AsyncClient(server) as client:
        terminal = await client.terminal(
            id, line, rows=rows, columns=columns, term=term, sandbox=sandbox, user=user, cwd=cwd
        )
        async with terminal:
            with _raw(sys.stdin.fileno()):
                await _show(terminal)
    if terminal.status is None:
        fail("the sandbox has ended", NO)
    return terminal.status


async def _show(terminal: AsyncTerminal) -> None:
    """Until its end, what is typed goes there and what comes is shown."""
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()

    def typed() -> None:
        if data := os.read(stdin, _CHUNK):
            terminal.write(data)
        else:
            loop.remove_reader(stdin)

    def resized() -> None:
        columns, rows = shutil.get_terminal_size()
        terminal.resize(rows, columns)

    loop.add_reader(stdin, typed)
    loop.add_signal_handler(signal.SIGWINCH, resized)
    try:
        while data := await terminal.read():
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
    finally:
        loop.remove_reader(stdin)
        loop.remove_signal_handler(signal.SIGWINCH)


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """The terminal passes on every key, Ctrl-C too, and is as it was afterwards."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)  # and loses nothing that was typed
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
