"""The tasks that megaflow ships: small, and without any network."""

from __future__ import annotations

import difflib
from pathlib import Path

from megaflow.errors import InvalidArgument, NotFound

__all__ = ["PREFIX", "swe_dataset", "terminal_dataset", "terminal_task", "terminal_tasks"]

# A task "megaflow:NAME" is one of these, any other is a path.
PREFIX = "megaflow:"
_TASKS = Path(__file__).parent / "tasks"


def terminal_tasks() -> list[str]:
    """The names of the tasks for `megaflow/Terminal-v0`."""
    return [PREFIX + path.parent.name for path in sorted(_TASKS.glob("terminal/*/task.toml"))]


def terminal_task(task: str) -> Path:
    """The folder of a task, by its path or its name here. Raises NotFound for a name that there is not."""
    _check("task", task)
    if not task.startswith(PREFIX):
        return Path(task)
    if task in terminal_tasks():
        return _TASKS / "terminal" / task.removeprefix(PREFIX)
    raise NotFound(f"task={task!r}: {_near(task, terminal_tasks())}")


def terminal_dataset(path: str) -> Path:
    """A folder of tasks, by its path or as "megaflow:terminal"."""
    _check("dataset", path)
    return _TASKS / "terminal" if path == f"{PREFIX}terminal" else Path(path)


def swe_dataset(path: str) -> Path:
    """A file of rows, by its path or as "megaflow:swe"."""
    _check("dataset", path)
    return _TASKS / "swe" / "tasks.jsonl" if path == f"{PREFIX}swe" else Path(path)


def _check(name: str, path: object) -> None:
    if not isinstance(path, str):
        raise InvalidArgument(
            f"{name}={path!r}: takes a path as text, or {PREFIX}… for what megaflow ships"
        )


def _near(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"megaflow ships {', '.join(names)}" + (f"; did you mean {close[0]}?" if close else "")
