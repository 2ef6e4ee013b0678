"""Parquet: three tables that pandas and `datasets` load, one row for each trajectory, step and model call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from megaflow.errors import FailedPrecondition
from megaflow.trajectory.export.files import Draft, cannot_write
from megaflow.trajectory.export.tables import COLUMNS, Row, rows
from megaflow.trajectory.reader import TrajectoryReader

__all__ = ["export"]

# What a row group holds at most, before compression.
_ROWS: Final = 10_000
_BYTES: Final = 16 << 20


def export(trajectories: Iterable[TrajectoryReader], out: Path) -> None:
    """Write `trajectories.parquet`, `steps.parquet` and `calls.parquet` into a folder.

    Raises:
        FailedPrecondition: pyarrow is not installed, or a file cannot be written.
        ResourceExhausted: the disk is full.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise FailedPrecondition(
            'Parquet needs pyarrow: install "megaflow[report]", or export to jsonl'
        ) from None
    tables = [_Table(name, out) for name in COLUMNS]
    by_name = {table.name: table for table in tables}
    try:
        for trajectory in trajectories:
            for name, row in rows(trajectory):
                by_name[name].add(row)
        for table in tables:
            table.finish()
        for table in tables:
            table.draft.keep()
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        for table in tables:
            table.close()


class _Table:
    def __init__(self, name: str, out: Path) -> None:
        import pyarrow as pa

        types = {
            "text": pa.string(),
            "json": pa.string(),
            "int": pa.int64(),
            "float": pa.float64(),
            "bool": pa.bool_(),
            "ints": pa.list_(pa.int64()),
            "floats": pa.list_(pa.float64()),
            "texts": pa.list_(pa.string()),
        }
        self.name = name
        self.draft = Draft(out / f"{name}.parquet")
        self._schema = pa.schema([(key, types[kind]) for key, kind in COLUMNS[name].items()])
        self._rows: list[Row] = []
        self._bytes = 0
        self._writer: Any = None

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._bytes += sum(_size(value) for value in row.values())
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._writer.close()
        self._writer = None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self.draft.drop()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(self.draft.draft, self._schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
        self._bytes = 0


def _size(value: Any) -> int:
    return (
        len(value) if isinstance(value, str) else 8 * len(value) if isinstance(value, list) else 8
    )
