"""Models as they were when a job was submitted: kept by what they are, so that none is taken for another.

The local server of `megaflow run` is one for all of a user's folders, each with a configuration of its own. So the
tasks of a job do not name `policy`, but `policy@` and a digest of the table of this name, which is kept here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from megaflow.errors import InvalidArgument, NotFound
from megaflow_server.models.tables import ModelTable

__all__ = ["named", "pin", "pinned", "put"]

_PIN = re.compile(r"(.+)@([0-9a-f]{16})", re.DOTALL)


def pin(name: str, table: ModelTable) -> str:
    """The name of this very table: NAME@DIGEST."""
    return f"{name}@{hashlib.sha256(_content(table)).hexdigest()[:16]}"


def named(pin: str) -> str | None:
    """The name that a pin begins with; None for what is no pin."""
    match = _PIN.fullmatch(pin)
    return match[1] if match else None


def put(folder: Path, tables: Iterable[ModelTable]) -> None:
    """Keep these, for whoever has their pins."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for table in tables:
        content = _content(table)
        file = _file(folder, hashlib.sha256(content).hexdigest()[:16])
        new = file.with_suffix(f".{os.getpid()}")
        new.write_bytes(content)
        new.replace(file)


def pinned(folder: Path, pins: Iterable[str]) -> Mapping[str, ModelTable]:
    """Of these names those that are pins, with what they stand for. Raises NotFound."""
    found = {}
    for pin in pins:
        if (match := _PIN.fullmatch(pin)) is None:
            continue
        try:
            content = _file(folder, match[2]).read_bytes()
        except OSError:
            raise NotFound(
                f"model={pin!r} is not kept in {folder} any more: run the job anew, with -m {match[1]}"
            ) from None
        if hashlib.sha256(content).hexdigest()[:16] != match[2]:
            raise InvalidArgument(f"model={pin!r}: {_file(folder, match[2])} was changed")
        found[pin] = ModelTable.model_validate_json(content)
    return found


def _file(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.json"


def _content(table: ModelTable) -> bytes:
    said = table.model_dump(mode="json", exclude_none=True)
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
