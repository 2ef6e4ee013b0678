"""The files of an export: whole, under their name, once it is done; until then under a name that says so."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from pathlib import Path
from types import TracebackType
from typing import TextIO

from megaflow.errors import FailedPrecondition, MegaflowError, ResourceExhausted

__all__ = ["Draft", "Lines", "cannot_write"]


def cannot_write(path: Path | str, error: OSError) -> MegaflowError:
    """What a failed write is to megaflow."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceExhausted(f"no room to write {path}: {error.strerror}")
    return FailedPrecondition(f"{path} cannot be written: {error.strerror or error}")


class Draft:
    """A file that takes its name when it is kept; leaving without removes it. Raises FailedPrecondition."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path.parent, error) from error

    def keep(self) -> None:
        """Take the name, in place of a file that has it."""
        os.replace(self.draft, self.path)

    def drop(self) -> None:
        """Remove what there is."""
        self.draft.unlink(missing_ok=True)


class Lines:
    """Text in a file, or on standard output where there is no path."""

    def __init__(self, path: Path | None) -> None:
        self._draft = None if path is None else Draft(path)
        self._name = "standard output" if path is None else str(path)
        try:
            self._file: TextIO = (
                sys.stdout if self._draft is None else self._draft.draft.open("x", encoding="utf-8")
            )
        except OSError as error:
            raise cannot_write(self._name, error) from error

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._draft is None:
            return
        try:
            self._file.close()
            if kind is None:
                self._draft.keep()
        except OSError as failed:
            raise cannot_write(self._name, failed) from failed
        finally:
            self._draft.drop()

    def write(self, text: str) -> None:
        """More text. Raises ResourceExhausted, FailedPrecondition."""
        try:
            self._file.write(text)
        except BrokenPipeError:  # whoever read has seen enough
            raise
        except OSError as error:
            raise cannot_write(self._name, error) from error
