"""Trajectories in other formats; each writer takes any number of trajectories, and holds one record of one.

What belongs here: one module per format, with a function `export(trajectories, out)`, and what they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Final, TypeAlias, cast

from megaflow.errors import InvalidArgument
from megaflow.trajectory.reader import TrajectoryReader

__all__ = ["FOLDERS", "FORMATS", "check", "export"]

FORMATS: Final = ("jsonl", "parquet", "atif", "sharegpt")
# What is more than one file, and so needs a folder; others go to standard output without a path.
FOLDERS: Final = ("parquet", "atif")

_Writer: TypeAlias = Callable[[Iterable[TrajectoryReader], Path | None], None]


def export(
    paths: Iterable[str],
    format: str,
    out: Path | None = None,
    *,
    report: Callable[[TrajectoryReader], None] = lambda trajectory: None,
) -> None:
    """Write trajectories in another format.

    Arrays that lie beside a trajectory stay there: what is written names them.

    Args:
        paths: of trajectories, as `find` gives them.
        format: one of `FORMATS`.
        out: a file, or for `FOLDERS` a folder; None is standard output.
        report: called with each trajectory once it is read: its `dropped` says what could not be.

    Raises:
        InvalidArgument: the format is none, or one that needs a folder; or a file is no trajectory.
        FailedPrecondition: a package is not installed, or a file cannot be written.
        ResourceExhausted: the disk is full; nothing unfinished is left.
    """
    check(format, out)
    writer = cast("_Writer", import_module(f"{__name__}.{format}").export)
    writer(_each(paths, report), out)


def check(format: str, out: Path | None) -> None:
    """Raises InvalidArgument as `export` would."""
    if format not in FORMATS:
        raise InvalidArgument(f"format {format!r}: one of {', '.join(FORMATS)}")
    if out is None and format in FOLDERS:
        raise InvalidArgument(f"format {format} is written into a folder: give out")


def _each(
    paths: Iterable[str], report: Callable[[TrajectoryReader], None]
) -> Iterator[TrajectoryReader]:
    for path in paths:
        trajectory = TrajectoryReader(path, arrays=False)
        yield trajectory
        report(trajectory)
