"""`megaflow tokens`: who may use a server that listens where other machines can reach it."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megaflow_server.cli.errors import USAGE, fail
from megaflow_server.cli.options import AsJson
from megaflow_server.cli.report import print_json

if TYPE_CHECKING:
    from megaflow_server.gateway.token_file import TokenFile
    from megaflow_server.gateway.tokens import Token

app = typer.Typer(no_args_is_help=True, help="The tokens that open a server to its users.")

File = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="What `megaflow serve --token-file` reads. Default: megaflow/tokens in $XDG_CONFIG_HOME, "
        "else in ~/.config",
    ),
]

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _file(path: Path | None) -> TokenFile:
    from megaflow_server.gateway.token_file import TokenFile

    if path is not None:
        return TokenFile(path)
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return TokenFile(config / "megaflow" / "tokens")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(
            f"the folder {folder} cannot be made: {error.strerror}; name a file with --token-file",
            USAGE,
        )


def _lifetime(text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r}: give a number and m, h, d or w, such as 30d", param_hint="--expires"
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@app.command("create")
def create(
    principal: Annotated[
        str, typer.Argument(metavar="PRINCIPAL", help="Whose it is: a user, a team, a service.")
    ],
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="SCOPES",
            help="What it opens, with commas: sessions, read, submit, run, admin. Default: sessions,read,submit",
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Such as 90m, 12h, 30d, 4w. Default: never")
    ] = None,
    token_file: File = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once; a running server reads the file again at SIGHUP."""
    from megaflow_server.gateway.auth import USER_SCOPES

    scopes = USER_SCOPES if scope is None else frozenset(scope.split(","))
    file = _file(token_file)
    if token_file is None:
        _make_folder(file.path.parent)
    token, text = file.create(principal, scopes, _lifetime(expires))
    if as_json:
        print_json({**_facts(token), "token": text})
        return
    typer.echo(text)
    # Standard output is the token alone, for TOKEN=$(megaflow tokens create …).
    typer.echo(f"Token {token.id} of {principal} is in {file.path}, as a hash.", err=True)


@app.command("list")
def list_tokens(token_file: File = None, as_json: AsJson = False) -> None:
    """List the tokens of a file; their texts are not in it."""
    tokens = _file(token_file).load()
    if as_json:
        print_json([_facts(token) for token in tokens])
    else:
        _print_table(tokens)


@app.command("revoke")
def revoke(
    token_id: Annotated[
        str, typer.Argument(metavar="ID", help="What `megaflow tokens list` calls it.")
    ],
    token_file: File = None,
) -> None:
    """Take a token away; a running server reads the file again at SIGHUP."""
    file = _file(token_file)
    token = file.revoke(token_id)
    typer.echo(f"Token {token.id} of {token.principal} is revoked.")


def _facts(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "principal": token.principal,
        "scopes": sorted(token.scopes),
        "created": token.created.isoformat(),
        "expires": None if token.expires is None else token.expires.isoformat(),
        "expired": token.expires is not None and token.expires <= datetime.now(UTC),
    }


def _print_table(tokens: list[Token]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("id", "principal", "scopes", "created", "expires"):
        table.add_column(name, overflow="fold")
    for token in tokens:
        facts = _facts(token)
        ends = "never" if token.expires is None else _minute(token.expires)
        table.add_row(
            token.id,
            token.principal,
            ",".join(facts["scopes"]),
            _minute(token.created),
            f"{ends} (expired)" if facts["expired"] else ends,
        )
    Console().print(table)


def _minute(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}Z"
