"""What an environment says of the tasks in a dataset of its kind.

An environment whose tasks lie in files may have a classmethod `tasks(dataset)` that gives a `ListedTask` for each:
`megaflow run` finds them by it, and checks them before anything starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaflow.errors import MegaflowError
from megaflow.task_folders.files import walk

__all__ = ["ListedTask", "digest_of_folder"]


@dataclass(frozen=True)
class ListedTask:
    """A task of a dataset.

    Attributes:
        name: unique in the dataset.
        env_kwargs: what the environment takes for it.
        digest: of all that the task consists of; equal for equal content.
        error: why it cannot be run; None where it can.
    """

    name: str
    env_kwargs: Mapping[str, Any]
    digest: str
    error: MegaflowError | None = None


def digest_of_folder(folder: Path) -> str:
    """Of names, modes and contents. Raises InvalidArgument for a link that leads out of it."""
    digest = hashlib.sha256()
    for name, path in walk(folder):
        content = path.read_bytes() if path.is_file() else b""
        mode = path.lstat().st_mode & 0o170100  # what it is, and whether it is a program
        digest.update(f"{name}\0{mode:o}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
