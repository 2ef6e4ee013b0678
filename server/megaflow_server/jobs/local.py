"""The local server of `megaflow run`: detached, so that jobs outlive the command that submitted them.

There is one for each user and state folder: started when it is first needed, found again, and ended when nobody
uses it and nothing is left to do. Three files are locked: `start.lock` by whoever starts it, `server.lock` by the
server for as long as it lives, `users.lock` shared by commands that use it, and by a server that ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from megaflow.errors import FailedPrecondition, InvalidArgument, Unavailable
from megaflow_server.runs import STATE_VARIABLE, state_folder

__all__ = [
    "IDLE",
    "LocalServer",
    "digests",
    "end",
    "locked",
    "models_folder",
    "running_server",
    "use_local_server",
]

# Seconds without jobs and users after which the server ends.
IDLE = 600.0
# Seconds that it has to start: it imports gymnasium, and so do its workers.
_START = 120.0
_POLL = 0.05
# That it has to end, with what it runs.
_END = 90.0
# What the kernel takes for a socket's path.
_LONGEST_PATH = 100
# Lines of its log that an error repeats.
_TAIL = 15


@dataclass(frozen=True)
class LocalServer:
    """A running local server.

    Attributes:
        started: whether this use of it has started it.
        keys: the variables with models' keys that it was given, each with a digest of its value.
    """

    folder: Path
    address: str
    started: bool
    pid: int = 0
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)


def folder() -> Path:
    """Where it keeps what it has."""
    return state_folder() / "local"


def models_folder() -> Path:
    """Where tables of models are kept that tasks name by their pins."""
    return folder() / "models"


@contextmanager
def use_local_server(
    concurrency: int | None = None,
    *,
    idle: float = IDLE,
    keys: Collection[str] = (),
    withheld: Collection[str] = (),
) -> Iterator[LocalServer]:
    """The user's local server, started where there is none; it does not end while this lasts.

    Args:
        concurrency: attempts at once, from now on; None leaves it as it is.
        keys: variables with keys of models that its runner needs, as they are set here. One that has nothing to
            do and was started without them, or with other values, is started anew.
        withheld: variables that no environment gets, if the server is started now.

    Raises:
        InvalidArgument: the state folder cannot be used, or what a store takes is not installed.
        FailedPrecondition: the server was started without these keys, and is in use.
        Unavailable: the server does not start; says what it printed.
    """
    place = folder()
    _check_installed()
    _check(place)
    with ExitStack() as using:
        with locked(place / "start.lock", fcntl.LOCK_EX):
            found = running_server()
            if found is not None and (lacking := _lacking(found, keys)):
                _end_unused(found, lacking)
            using.enter_context(locked(place / "users.lock", fcntl.LOCK_SH))
            if concurrency is not None:
                _write(place / "wanted.json", {"concurrency": concurrency})
            server = running_server() or _start(place, idle, {*keys, *withheld})
        yield server


def running_server() -> LocalServer | None:
    """The one that runs, if one does."""
    place = folder()
    try:
        held = os.open(place / "server.lock", os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = _read(place / "server.json")
        return _said(place, said) if said else None
    finally:
        os.close(held)
    return None


@contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock on a file, which is made where there is none. BlockingIOError with LOCK_NB where it is held."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, kind)
        yield
    finally:
        os.close(held)


def _check_installed() -> None:
    for package in ("sqlalchemy", "alembic"):
        if find_spec(package) is None:
            raise InvalidArgument(
                f"a local server keeps tasks in a store, which takes {package}: pip install 'megaflow[server]'; or "
                "name a server with --server ADDR"
            )


def _check(place: Path) -> None:
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(
            f"{place}: cannot be made: {error.strerror}; name another folder in ${STATE_VARIABLE}"
        ) from error
    if len(os.fsencode(place / "s")) > _LONGEST_PATH:
        raise InvalidArgument(
            f"{place}: too long for a socket's path; name a shorter folder in ${STATE_VARIABLE}"
        )


def _said(place: Path, said: Mapping[str, Any], *, started: bool = False) -> LocalServer:
    return LocalServer(place, said["address"], started, said["pid"], said["keys"])


def _lacking(server: LocalServer, keys: Collection[str]) -> list[str]:
    """Of these variables those that a server was started without, or with other values than are set here."""
    return sorted(
        key for key in keys if server.keys.get(key) != _digest(key, server.keys.get("", ""))
    )


def digests(keys: Collection[str]) -> dict[str, str]:
    """Of the values of variables, as far as they are set, and under "" the salt."""
    salt = secrets.token_hex(16)
    return {"": salt, **{key: _digest(key, salt) for key in keys if key in os.environ}}


def _digest(key: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}{os.environ.get(key)}".encode()).hexdigest()


def _end_unused(server: LocalServer, lacking: Collection[str]) -> None:
    """End a server that has nothing to do, and that no other command uses. Raises FailedPrecondition."""
    from megaflow import Client

    names = ", ".join(f"${name}" for name in lacking)
    way_out = (
        f"the local server was started without {names}, or with another value, so its runner cannot call the models "
        "that are named here; {}: wait until it has nothing to do, or name a file with the key as api_key_file "
        f"instead, or end it with `megaflow stop --force` (what it runs is run again by the next one)"
    )
    try:
        with locked(server.folder / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            with Client(server.address) as client:
                if any(job.done < job.total for job in client.jobs()):
                    raise FailedPrecondition(way_out.format("it still has tasks"))
            end(server)
    except BlockingIOError:
        raise FailedPrecondition(way_out.format("another command uses it")) from None


def end(server: LocalServer) -> None:
    """Have it end, and wait; what runs on it is given back. Raises Unavailable where it does not end."""
    os.kill(server.pid, signal.SIGTERM)
    latest = time.monotonic() + _END
    while running_server() is not None:
        if time.monotonic() > latest:
            raise Unavailable(f"the local server, process {server.pid}, does not end")
        time.sleep(_POLL)


def _start(place: Path, idle: float, keys: Collection[str]) -> LocalServer:
    (place / "server.json").unlink(missing_ok=True)
    log = place / "log"
    with log.open("wb") as printed:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "megaflow_server.jobs.local_main"),
                *(str(place), str(idle), *sorted(keys)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            # Neither a Ctrl-C at the terminal nor its end is the server's.
            start_new_session=True,
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
        )
    latest = time.monotonic() + _START
    while (said := _read(place / "server.json")) is None:
        if process.poll() is not None or time.monotonic() > latest:
            process.kill()
            process.wait()
            lines = log.read_text(errors="replace").strip().splitlines()[-_TAIL:]
            raise Unavailable(f"the local server did not start: {chr(10).join(lines) or log}")
        time.sleep(_POLL)
    # It goes on without this process, which need not hear of its end.
    process.returncode = 0
    return _said(place, said, started=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _write(path: Path, said: dict[str, Any]) -> None:
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(said))
    new.replace(path)
