"""Folders of tasks in the format of Harbor and Terminal-Bench 2: `task.toml`, `instruction.md`, `tests/test.sh`, …

Reads and checks them, and says what their sandboxes must be like; nothing here runs anything of a task.
"""

from __future__ import annotations

from megaflow.task_folders.context import REPOSITORY, BuildContext
from megaflow.task_folders.folder import TaskFolder, find_tasks

__all__ = ["REPOSITORY", "BuildContext", "TaskFolder", "find_tasks"]
