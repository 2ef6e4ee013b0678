"""The local server behind `server=None`: started on first use, shared by forks and spawned children, and
gone when the last of them is, however it ends.

The server watches two kinds of holds: the pipe to its standard input, which the process that started it and
all its forks keep open, and connections to its `lifetime.sock`, one of each process that uses it, which says
its client id there: when that ends, so do the sessions of the process. When no hold is left, the server ends
and removes its folder. Nothing needs to run in a dying client for that.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from megaflow.code import CodeFolder
from megaflow.errors import InvalidArgument, Unavailable

# Names the folder of a running embedded server, for spawned children.
FOLDER_VARIABLE = "MEGAFLOW_EMBEDDED"
SERVER_VARIABLE = "MEGAFLOW_SERVER"

# Seconds that a process waits at its end for the server to clean up.
_EXIT_WAIT = 3.0

# What the server's line begins with; anything else was printed by somebody's site customisation.
_ANSWER = b"megaflow "

_START = (
    "import json, sys; config = json.loads(sys.stdin.buffer.readline()); "
    "sys.path[:] = config['import_paths']; from megaflow_server.embedded import main; main(config)"
)


def configured_server() -> str | None:
    """`$MEGAFLOW_SERVER`, or None where it is unset or empty."""
    return os.environ.get(SERVER_VARIABLE) or None


@dataclass
class EmbeddedServer:
    """A running embedded server, and what keeps it running.

    Attributes:
        process: where this process, or the one that it is a fork of, started the server.
        connection: this process's hold; None in a fork, until that uses the server.
    """

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    connection: socket.socket | None = None
    owner: int = field(default_factory=os.getpid)

    @property
    def address(self) -> str:
        return f"unix:{self.folder / 'gateway.sock'}"

    @property
    def store(self) -> CodeFolder:
        return CodeFolder(self.folder / "code")

    def alive(self) -> bool:
        """Whether the server still runs, as far as can be told without asking it."""
        if self.process is not None and self.owner == os.getpid():
            return self.process.poll() is None
        if self.connection is None:
            return False
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def let_go(self) -> None:
        """Ends this process's hold; in a fork, its copy of the parent's, which says who the parent is."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


_lock = threading.Lock()
_server: EmbeddedServer | None = None
_client_id = secrets.token_hex(16)


def client_id() -> str:
    """128 random bits in hex that name this process to servers; a fork has its own."""
    return _client_id


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held the lock. The pipe is inherited, and holds the server as well.
    global _lock, _client_id
    _lock = threading.Lock()
    _client_id = secrets.token_hex(16)
    if _server is not None:
        _server.let_go()


os.register_at_fork(after_in_child=_after_fork_in_child)


def ensure() -> EmbeddedServer:
    """The embedded server of this process and its relatives, started where there is none.

    Raises Unavailable with what the server printed where it does not start, and InvalidArgument where its
    configuration has a fault.
    """
    global _server
    with _lock:
        if _server is not None and _server.connection is None:
            _server.connection = _hold(_server.folder)
        if _server is None or not _server.alive():
            if _server is not None:
                _server.let_go()
            _server = _join_relative() or _start()
            atexit.register(_at_exit, _server)
        return _server


def import_paths() -> list[str]:
    """This process's import paths, absolute, as its workers should see them."""
    # Python passes over entries that are no str.
    return [os.path.abspath(path) for path in sys.path if isinstance(path, str)]


def _join_relative() -> EmbeddedServer | None:
    """The server that a parent of this process started, held from here on."""
    name = os.environ.get(FOLDER_VARIABLE)
    if not name:
        return None
    folder = Path(name)
    if not _is_private(folder):
        return None
    connection = _hold(folder)
    return None if connection is None else EmbeddedServer(folder, connection=connection)


def _hold(folder: Path) -> socket.socket | None:
    """A lifetime connection of this process; None where the server has ended since."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(5.0)
        connection.connect(str(folder / "lifetime.sock"))
        connection.sendall(client_id().encode())
        welcome = connection.recv(1)
    except OSError:
        welcome = b""
    if welcome != b"+":
        connection.close()
        return None
    # With a timeout, Python would wait for it before `alive` looks.
    connection.settimeout(None)
    return connection


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and stat.S_IMODE(status.st_mode) == 0o700
    )


def _start() -> EmbeddedServer:
    printed = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe would fill up; closed below
    process = subprocess.Popen(
        # -P: no file of the working directory is imported in place of the standard library.
        [sys.executable, "-P", "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=printed,
        # A Ctrl-C at the terminal is the client's to handle.
        start_new_session=True,
        # gRPC's fork handlers are for clients: in a server they would stop every fork of an environment.
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    config = {"import_paths": import_paths(), "directory": os.getcwd()}
    try:
        process.stdin.write(json.dumps(config).encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = b""
    with printed, process.stdout:
        if not answer.startswith(_ANSWER):
            raise _did_not_start(process, answer, printed)
    said = json.loads(answer.removeprefix(_ANSWER))
    if "refused" in said:
        process.stdin.close()
        process.wait()
        raise InvalidArgument(said["refused"])
    folder = Path(said["folder"])
    os.environ[FOLDER_VARIABLE] = str(folder)
    return EmbeddedServer(folder, process=process, connection=_hold(folder))


def _did_not_start(
    process: subprocess.Popen[bytes], answer: bytes, printed: IO[bytes]
) -> Unavailable:
    assert process.stdin is not None
    process.stdin.close()
    status = process.wait()
    printed.seek(0)
    said = (answer + printed.read()).decode(errors="replace").strip()
    return Unavailable(
        f"the embedded server did not start (exit code {status}): {said or 'it printed nothing'}"
    )


def _at_exit(server: EmbeddedServer) -> None:
    """Lets go at the end of this process, and waits until the folder of a server that it started is gone."""
    server.let_go()
    process = server.process
    if process is None or server.owner != os.getpid():
        return
    assert process.stdin is not None
    process.stdin.close()
    if os.environ.get(FOLDER_VARIABLE) == str(server.folder):
        del os.environ[FOLDER_VARIABLE]
    try:
        process.wait(timeout=_EXIT_WAIT)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        # Forked or spawned relatives still hold it; it ends with them. Popen must not warn that it runs.
        process.returncode = 0
