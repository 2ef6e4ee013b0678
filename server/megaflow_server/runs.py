"""The runs of this host's servers: a file for each, so that what one leaves can be found when it was killed.

A server holds a lock on its file for as long as it lives, however it ends: a file that nobody holds is that of a
run that is over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from megaflow.errors import InvalidArgument

__all__ = [
    "STATE_VARIABLE",
    "Run",
    "RunFile",
    "check_id",
    "find",
    "forget",
    "lives",
    "over",
    "recorded",
    "state_folder",
]

# Where servers keep what outlives them.
STATE_VARIABLE = "MEGAFLOW_STATE"

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Run:
    """A server from its start to its end.

    Attributes:
        id: the label "run" of everything that it made.
        pid: of its process.
        mark: what the processes that it started carry: see `marks`.
        folder: its private one.
        places: of the backends that it used whose instances outlive it: see `Backend.place`.
    """

    id: str
    pid: int
    mark: int
    folder: str
    places: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Run:
        """ValueError where it is none: the server was killed while it wrote."""
        try:
            said = json.loads(text)
            return cls(
                check_id(said["id"]), int(said["pid"]), int(said["mark"]), str(said["folder"]),
                tuple(map(str, said["places"])),
            )  # fmt: skip
        except (KeyError, TypeError, InvalidArgument) as error:
            raise ValueError(f"no run: {error!r}") from None


def check_id(run: str) -> str:
    """InvalidArgument for what is no run's id."""
    if not isinstance(run, str) or not _ID.fullmatch(run):
        raise InvalidArgument(
            f"run={run!r}: takes 16 hexadecimal characters, as `megaflow pool ls` shows"
        )
    return run


def state_folder() -> Path:
    """$MEGAFLOW_STATE, else megaflow in $XDG_STATE_HOME, else in the user's ~/.local/state."""
    if given := os.environ.get(STATE_VARIABLE):
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME")
    return Path(state or Path.home() / ".local" / "state") / "megaflow"


class RunFile:
    """A living server's file; its end is a clean one, which leaves no file.

    Raises:
        InvalidArgument: the folder for it cannot be used.
    """

    def __init__(self, state: Path, run: Run) -> None:
        self.run = run
        self.path = _folder(state) / f"{run.id}.json"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(run)
        except OSError as error:
            raise InvalidArgument(
                f"{self.path.parent}: cannot be written: {error.strerror}; name another folder in ${STATE_VARIABLE}"
            ) from error

    def note(self, place: str) -> None:
        """Take down another place where something of this run may be; before anything is."""
        if place not in self.run.places:
            self.run = Run(**{**asdict(self.run), "places": (*self.run.places, place)})
            held = self._held
            self._write(self.run)
            os.close(held)

    def end(self) -> None:
        """Nothing of this run is left."""
        self.path.unlink(missing_ok=True)
        os.close(self._held)

    def let_go(self) -> None:
        """Something may be left: whoever comes next sees to it."""
        os.close(self._held)

    def _write(self, run: Run) -> None:
        """A new file in the place of the old one, held before it is there."""
        new = self.path.with_suffix(".new")
        held = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(held, json.dumps(asdict(run)).encode())
        os.rename(new, self.path)
        self._held = held


@contextmanager
def over(state: Path) -> Iterator[list[Run]]:
    """The runs that are over, nobody else's meanwhile; `forget` them once nothing of them is left."""
    with contextlib.ExitStack() as stack:
        found = []
        for path in sorted(_folder(state).glob("*.json")):
            held = _take(path)
            if held is None:
                continue
            stack.callback(os.close, held)
            run = _read(path)
            if run is None:  # it was killed before there was anything
                path.unlink(missing_ok=True)
            else:
                found.append(run)
        yield found


def forget(state: Path, run: Run) -> None:
    """Nothing of a run is left."""
    (_folder(state) / f"{run.id}.json").unlink(missing_ok=True)


def find(state: Path, run: str) -> Run | None:
    """A run by its id; None where this host has no record of it."""
    return _read(_folder(state) / f"{check_id(run)}.json")


def lives(state: Path, run: str) -> bool:
    """Whether the server of a run is there."""
    path = _folder(state) / f"{check_id(run)}.json"
    held = _take(path)
    if held is None:
        return path.exists()
    os.close(held)
    return False


def recorded(state: Path) -> list[Run]:
    """Every run that there is a record of."""
    runs = map(_read, sorted(_folder(state).glob("*.json")))
    return [run for run in runs if run is not None]


def _folder(state: Path) -> Path:
    return state / "runs"


def _take(path: Path) -> int | None:
    """Hold a file; None where somebody else does, or it is gone."""
    try:
        held = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(held).st_ino == path.stat().st_ino:  # and not one that was replaced just now
            return held
    except (BlockingIOError, FileNotFoundError):
        pass  # its server is there, or has just gone
    os.close(held)
    return None


def _read(path: Path) -> Run | None:
    try:
        return Run.read(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
