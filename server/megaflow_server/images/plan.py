"""Which images tasks need, each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from megaflow.errors import MegaflowError
from megaflow.task_folders import BuildContext, TaskFolder, find_tasks

__all__ = ["Wanted", "plan"]


@dataclass
class Wanted:
    """An image that tasks need.

    Attributes:
        context: what it is built from; None for one that is fetched.
        timeout: seconds that building it may take.
        tasks: the names of those that need it.
    """

    image: str
    context: BuildContext | None
    timeout: float
    tasks: list[str] = field(default_factory=list)


def plan(paths: Iterable[Path | str]) -> tuple[list[Wanted], list[MegaflowError]]:
    """The images of all tasks in these folders, in order, and what is wrong with tasks that cannot be read.

    Raises:
        NotFound: there is no task in one of the folders.
    """
    wanted: dict[str, Wanted] = {}
    wrong = []
    for folder in [task for path in paths for task in find_tasks(path)]:
        try:
            task = TaskFolder.load(folder)
        except MegaflowError as error:
            wrong.append(error)
            continue
        for one in _of(task):
            known = wanted.setdefault(one.image, one)
            known.timeout = max(known.timeout, one.timeout)
            known.tasks.append(task.name)
    return list(wanted.values()), wrong


def _of(task: TaskFolder) -> Iterator[Wanted]:
    settings = task.settings
    if task.image is not None:
        yield Wanted(task.image, task.context, settings.environment.build_timeout_sec)
    own = task.verifier_request()
    if own is None or own.image is None or own.image == task.image:
        return
    table = settings.verifier.environment or settings.environment
    yield Wanted(own.image, task.verifier_context, table.build_timeout_sec)
