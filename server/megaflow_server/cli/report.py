"""Reports: a line per check, what to do where one fails, and the exit status."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Status = Literal["ok", "warning", "failed"]

# How wide a table is where no terminal ends it; where one does, how wide a column is at most, the last at least.
_ENDLESS, _WIDEST, _NARROWEST = 100_000, 40, 10
# What stands between two columns.
_BETWEEN = 3
_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        way_out: what to do about it; "" where there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    way_out: str = ""


def print_report(findings: Iterable[Finding], *, as_json: bool) -> None:
    """Prints each finding as it comes, or all of them as JSON; ends the command with 1 where one failed."""
    console = Console(highlight=False)
    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            for line in _lines(finding):
                console.print(line, soft_wrap=True)
    failed = [finding.name for finding in seen if finding.status == "failed"]
    if as_json:
        checks = [dataclasses.asdict(finding) for finding in seen]
        print_json({"ok": not failed, "checks": checks})
    elif failed:
        console.print(f"\n{len(failed)} of {len(seen)} failed: {', '.join(failed)}")
    if failed:
        raise typer.Exit(1)


def _lines(finding: Finding) -> Iterator[str]:
    style = _STYLES[finding.status]
    first, *rest = finding.detail.splitlines() or [""]
    yield f"[{style}]{finding.status:8}[/] {finding.name:21} {escape(first)}"
    for line in rest:
        yield f"{'':31}{escape(line)}"
    if finding.way_out:
        yield f"{'':31}→ {escape(finding.way_out)}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table whose last column is cut where the terminal ends; in a pipe nothing is.

    The others are as wide as what stands in them, 40 columns at most, beyond which they take several lines.
    """
    console = Console()
    if not console.is_terminal:
        console.width = _ENDLESS
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    *others, last = columns
    left = console.width
    for at, name in enumerate(others):
        width = max(map(cell_len, [name, *(row[at] for row in rows)]))
        if console.is_terminal:
            width = min(width, _WIDEST)
        table.add_column(name, width=width, overflow="fold")
        left -= width + _BETWEEN
    table.add_column(last, max_width=max(_NARROWEST, left - _BETWEEN), no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_json(value: Any) -> None:
    """Prints a value as JSON; what JSON lacks (arrays, infinities, classes) as lists and text."""
    typer.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return str(value)
