"""What a gateway and the workers that it starts agree on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megaflow.protocol import megaflow_pb2 as pb

# Metadata key under which a gateway shows a worker its secret.
SECRET_KEY = "megaflow-worker-secret"

# What a starting worker runs. Its configuration comes first, so that imports happen with the right paths,
# which are the image's own where it names none.
BOOTSTRAP = (
    "import json, sys; config = json.loads(sys.stdin.buffer.read()); "
    "sys.path[:] = config['import_paths'] or sys.path; from megaflow_server.worker.main import main; main(config)"
)


# Metadata key under which a worker tells its gateway the port of its listener for other machines.
DATA_PORT_KEY = "megaflow-data-port"


@dataclass(frozen=True)
class DataListener:
    """Where a worker listens for clients on other machines, with TLS.

    Attributes:
        certificate, key: PEM.
    """

    host: str
    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What a worker reads on its standard input; its secrets are in no repr.

    Without pydantic, of which every start of a worker would wait for the import.

    Attributes:
        log: where the worker's standard output and error go.
        secret: 128 random bits in hex: who may control this worker.
        parent: process id: when it ends, so does the worker.
        modules: imported before serving: they register environments.
        close_grace: seconds that environments get to close when the worker is told to end.
    """

    name: str
    socket: Path
    log: Path
    secret: str = field(repr=False)
    parent: int
    import_paths: Sequence[str]
    modules: Sequence[str] = ()
    code_policy: int = pb.CODE_POLICY_REGISTERED
    code_folder: Path | None = None
    data: DataListener | None = None
    close_grace: float = 2.0

    def dump(self) -> bytes:
        """As JSON, which is on nobody's command line."""
        return json.dumps(asdict(self), default=os.fspath).encode()

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> WorkerConfig:
        """What was dumped, once its JSON is read."""
        paths = {name: raw[name] and Path(raw[name]) for name in ("socket", "log", "code_folder")}
        data = raw["data"] and DataListener(**raw["data"])
        return cls(**{**raw, **paths, "data": data})


def nonce_file(socket: Path) -> Path:
    """Where a worker's nonce stands: see Endpoint in megaflow.proto."""
    return socket.with_name(f"{socket.name}.nonce")


def stream_socket(socket: Path) -> Path:
    """Where a worker's sessions are served without gRPC: see Endpoint in megaflow.proto."""
    return socket.with_name(f"{socket.name}.frames")


def _refusal_file(socket: Path) -> Path:
    return socket.with_name(f"{socket.name}.refusal")


def leave_refusal(socket: Path, why: str) -> None:
    """Leaves, for the gateway, why a worker cannot start as it was told to."""
    _refusal_file(socket).write_text(why)


def take_refusal(socket: Path) -> str:
    """What a worker has left with `leave_refusal`; empty where that is nothing."""
    try:
        why = _refusal_file(socket).read_text()
    except FileNotFoundError:
        return ""
    _refusal_file(socket).unlink()
    return why


# How much of a worker's log goes into an error: a traceback's last frames, past those of importlib.
_TAIL_LINES = 50
_TAIL_BYTES = 4096


def log_tail(log: Path) -> str:
    """The last lines of a worker's log, also where it was just begun anew; empty where there is none."""
    end = _end_of(log)
    if len(end) < _TAIL_BYTES:
        end = (_end_of(older_log(log)) + end)[-_TAIL_BYTES:]
    return "\n".join(end.decode(errors="replace").splitlines()[-_TAIL_LINES:])


def older_log(log: Path) -> Path:
    """Where the part of a log is that was written before the log was begun anew."""
    return log.with_name(f"{log.name}.1")


def _end_of(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES)
    except FileNotFoundError:
        return b""
