"""Datasets: a folder of task folders, a file of tasks or of SWE-bench rows, or a job file that names these.

Each task is read and checked by itself, so that a broken one is told as such and the others run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from megaflow.errors import InvalidArgument, NotFound
from megaflow.listed_task import ListedTask
from megaflow_server.jobs.checking import checked
from megaflow_server.jobs.job_file import TaskTable

__all__ = ["Broken", "Entry", "Found", "read_dataset", "task_entries", "unique"]

_TERMINAL, _SWE = "megaflow/Terminal-v0", "megaflow/SWE-v0"
# Sets of tasks that megaflow ships, by what follows "megaflow:".
_SHIPPED = {"megaflow:terminal": _TERMINAL, "megaflow:swe": _SWE}


@dataclass(frozen=True)
class Entry:
    """A task of a dataset: its name, what it is made of, and the digest of that."""

    name: str
    table: TaskTable
    digest: str


@dataclass(frozen=True)
class Broken:
    """A task that cannot be run, and why."""

    name: str
    reason: str


Found = Entry | Broken


def read_dataset(dataset: str, env_kwargs: Mapping[str, Any] | None = None) -> Iterator[Found]:
    """The tasks of a dataset, in its order.

    Args:
        dataset: a folder, a file of JSON lines, or "megaflow:terminal" or "megaflow:swe".
        env_kwargs: what each environment is given besides; a task's own win.

    Raises:
        NotFound, InvalidArgument: it is no dataset at all.
    """
    more = dict(env_kwargs or {})
    if dataset.startswith("megaflow:"):
        yield from _listed(_shipped(dataset), dataset, more)
        return
    path = Path(dataset)
    if path.is_dir():
        yield from _listed(_TERMINAL, dataset, more)
    elif not path.exists():
        raise NotFound(
            f"{dataset}: no such file or folder; -d takes a folder of tasks, a .jsonl or a job file"
        )
    elif path.suffix not in (".jsonl", ".json"):
        raise InvalidArgument(
            f"{dataset}: no dataset: give a folder of task folders, a .jsonl of tasks or of SWE-bench rows, or "
            "a job file (.toml, .yaml)"
        )
    elif _has_rows(path):
        yield from _listed(_SWE, dataset, more)
    else:
        yield from _task_lines(path, more)


def _shipped(dataset: str) -> str:
    if dataset in _SHIPPED:
        return _SHIPPED[dataset]
    close = difflib.get_close_matches(dataset, _SHIPPED, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise NotFound(f"{dataset}: megaflow ships {', '.join(_SHIPPED)}{hint}")


def _listed(env: str, dataset: str, more: Mapping[str, Any]) -> Iterator[Found]:
    """What the environment's own class says of the dataset."""
    entry_point = gym.spec(env).entry_point
    made = (
        gym.envs.registration.load_env_creator(entry_point)
        if isinstance(entry_point, str)
        else entry_point
    )
    listing = getattr(made, "tasks", None)
    if listing is None:
        raise InvalidArgument(f"{dataset}: {env} has no classmethod tasks(dataset)")
    count = 0
    for listed in listing(dataset):
        count += 1
        yield _found(env, listed, more)
    if not count:
        raise InvalidArgument(f"{dataset}: there is no task in it")


def _found(env: str, listed: ListedTask, more: Mapping[str, Any]) -> Found:
    if listed.error is not None:
        return Broken(listed.name, listed.error.message)
    table = TaskTable(env=env, name=listed.name, env_kwargs={**more, **listed.env_kwargs})
    return Entry(listed.name, table, listed.digest)


def _has_rows(path: Path) -> bool:
    """Whether the first line that is an object has the name that SWE-bench gives its rows."""
    with path.open("rb") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return "instance_id" in found
    return False


def _task_lines(path: Path, more: Mapping[str, Any]) -> Iterator[Found]:
    tables: list[tuple[str, TaskTable] | Broken] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                table = checked(TaskTable, json.loads(line), lambda _, place=place: place)  # type: ignore[misc]
                tables.append((f"line {number}", table))
            except InvalidArgument as error:
                tables.append(Broken(f"line {number}", error.message))
            except ValueError as error:
                tables.append(Broken(f"line {number}", f"{place}: no JSON: {error}"))
    if not tables:
        raise InvalidArgument(f"{path}: there is no task in it")
    yield from _named(tables, more)


def task_entries(tables: list[TaskTable], more: Mapping[str, Any]) -> Iterator[Found]:
    """The tasks of a job file itself."""
    yield from _named([(f"task {place}", table) for place, table in enumerate(tables, 1)], more)


def _named(
    tables: list[tuple[str, TaskTable] | Broken], more: Mapping[str, Any]
) -> Iterator[Found]:
    """Entries under names of their own: a task's, else its environment's with its place."""
    for found in tables:
        if isinstance(found, Broken):
            yield found
            continue
        place, table = found
        table = table.model_copy(update={"env_kwargs": {**more, **table.env_kwargs}})
        name = table.name or f"{table.env} ({place})"
        yield Entry(name, table, digest_of_table(table))


def digest_of_table(table: TaskTable) -> str:
    """Of what a task says of its environment; who acts is no part of what is measured."""
    content = table.model_dump(include={"env", "env_kwargs", "seed", "limits", "resources"})
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def unique(found: Iterator[Found]) -> Iterator[Found]:
    """The same, each under a name of its own: a second one is NAME #2."""
    names: set[str] = set()
    for one in found:
        if one.name in names:
            count = 2
            while f"{one.name} #{count}" in names:
                count += 1
            one = replace(one, name=f"{one.name} #{count}")
        names.add(one.name)
        yield one
