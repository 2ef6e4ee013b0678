"""The rows of one table that a unit of work has read or is to write."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

__all__ = ["Rows"]

R = TypeVar("R")
Key = tuple[Any, ...]

# Keys in one question: databases limit how many values one may have.
_KEYS_AT_ONCE = 500


class Rows(Generic[R]):
    """Records by their key, each read once, and written with the others that changed.

    Args:
        changing: the columns in which a record differs from what it was when it was new.
        lock: whether nobody else may change what was read.
    """

    def __init__(
        self,
        connection: sa.Connection,
        table: sa.Table,
        record_from: Callable[[Any], R],
        row_of: Callable[[R], dict[str, Any]],
        changing: Sequence[str] = (),
        *,
        lock: bool = True,
    ) -> None:
        self._connection = connection
        self._table = table
        self._from = record_from
        self._row = row_of
        self._changing = tuple(changing)
        self._lock = lock
        self._known: dict[Key, R | None] = {}
        self._stored: set[Key] = set()
        self._changed: dict[Key, R] = {}
        self._keys = tuple(column.name for column in table.primary_key)

    def get(self, key: Key) -> R | None:
        """The record of a key, which nobody else changes from then on."""
        if key not in self._known:
            self.load([key])
        return self._known[key]

    def load(self, keys: Collection[Key]) -> list[R]:
        """The records of many keys, read in the order of the keys: whoever locks them too waits in that order."""
        wanted = sorted(set(keys) - self._known.keys())
        for begin in range(0, len(wanted), _KEYS_AT_ONCE):
            some = wanted[begin : begin + _KEYS_AT_ONCE]
            values = some if len(self._keys) > 1 else [key[0] for key in some]
            asked = _by_keys(self._table, self._lock)
            for row in self._connection.execute(asked, {"keys": values}).mappings():
                key = tuple(row[name] for name in self._keys)
                self._known[key] = self._from(row)
                self._stored.add(key)
            self._known.update((key, None) for key in some if key not in self._known)
        return [record for key in keys if (record := self._known[key]) is not None]

    def put(self, key: Key, record: R) -> None:
        """Have it written at the next flush. It was read before, or is new."""
        self._known[key] = record
        self._changed[key] = record

    def find(
        self,
        asked: sa.Select[Any] | sa.CompoundSelect[Any],
        values: Mapping[str, Any] | None = None,
        *,
        skip_locked: bool = False,
        lock: bool = True,
    ) -> Sequence[R]:
        """What a question finds; nothing that has changed may be left to write.

        Args:
            lock: False where the question does that itself.
        """
        if lock:
            asked = asked.with_for_update(of=self._table, skip_locked=skip_locked)
        found = []
        for row in self._connection.execute(asked, values).mappings():
            key = tuple(row[name] for name in self._keys)
            if self._known.get(key) is None:
                self._known[key] = self._from(row)
                self._stored.add(key)
            found.append(self._known[key])
        return [record for record in found if record is not None]

    def flush(self) -> None:
        """Write what has changed: one statement for what is new, one for what is not."""
        if not self._changed:
            return
        new = [self._row(one) for key, one in self._changed.items() if key not in self._stored]
        old = [self._row(one) for key, one in self._changed.items() if key in self._stored]
        if new:
            self._connection.execute(sa.insert(self._table), new)
        if old:
            self._connection.execute(
                _update(self._table, self._changing), [*map(self._change, old)]
            )
        self._stored.update(self._changed)
        self._changed = {}

    def _change(self, row: dict[str, Any]) -> dict[str, Any]:
        change = {name: row[name] for name in self._changing}
        return change | {f"key_{name}": row[name] for name in self._keys}


@functools.cache
def _by_keys(table: sa.Table, lock: bool) -> sa.Select[Any]:
    columns = tuple(table.primary_key)
    wanted = columns[0] if len(columns) == 1 else sa.tuple_(*columns)
    asked = sa.select(table).where(wanted.in_(sa.bindparam("keys", expanding=True)))
    return asked.order_by(*columns).with_for_update() if lock else asked


@functools.cache
def _update(table: sa.Table, changing: tuple[str, ...]) -> sa.Update:
    wanted = [column == sa.bindparam(f"key_{column.name}") for column in table.primary_key]
    return sa.update(table).where(*wanted).values({name: sa.bindparam(name) for name in changing})
