"""The files of a task's folder: read as text, and never outside of it."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from megaflow.errors import InvalidArgument, NotFound
from megaflow.task_folders.lines import line_of_byte

__all__ = ["check_inside", "read_text", "walk"]


def read_text(path: Path) -> str:
    """What a file says.

    Raises:
        NotFound: there is none.
        InvalidArgument: it is no UTF-8, is empty or holds a NUL; names the line.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from error
    try:
        # Some editors begin a file with a mark of their own.
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = line_of_byte(error.object, error.start)
        byte = error.object[error.start]
        raise InvalidArgument(f"{path}:{line}: byte {byte:#04x} is no UTF-8") from None
    if "\0" in text:
        raise InvalidArgument(f"{path}:{line_of_byte(data, data.index(0))}: a NUL byte")
    if not text.strip():
        raise InvalidArgument(f"{path}:1: the file is empty")
    return text


def walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything below a folder in a fixed order, by its name there.

    Raises:
        InvalidArgument: a link leads out of the folder, or something is neither file nor folder nor link.
    """
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(root, name)
            check_inside(path, folder)
            yield path.relative_to(folder).as_posix(), path


def check_inside(path: Path, folder: Path) -> None:
    """Raise InvalidArgument for what leads out of a folder, or is none of file, folder and link."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        target = os.readlink(path)
        inside = Path(os.path.normpath(path.parent.resolve() / target))
        if target.startswith("/") or not inside.is_relative_to(folder.resolve()):
            raise InvalidArgument(f"{path}: a link to {target!r}, which leads out of {folder}")
        if path.exists() and not path.resolve().is_relative_to(folder.resolve()):
            raise InvalidArgument(f"{path}: a link that leads out of {folder}")
    elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InvalidArgument(f"{path}: neither a file, nor a folder, nor a link")
