"""What all workers of a gateway are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.data_host import DataHost


@dataclass(frozen=True)
class WorkerSettings:
    """What all workers of a gateway have in common."""

    folder: Path  # private; sockets and logs live here
    parent: int
    import_paths: list[str]
    environ: dict[str, str]
    directory: Path
    labels: dict[str, str]
    modules: list[str] = field(default_factory=list)
    code_policy: int = pb.CODE_POLICY_REGISTERED
    code_folder: Path | None = None
    data_host: DataHost | None = None  # where workers listen for other machines, too
    close_grace: float = 2.0
    max_sessions: int | None = None  # that a worker hosts before it is replaced
    memory_limit: int | None = None  # bytes that a worker takes with all its processes
    log_limit: int = 10 << 20  # bytes of a log before it is begun anew
    heartbeat_timeout: float = 60.0  # seconds of silence after which a worker is ended
    image: str | None = None  # what a worker is a container of; None: the backend has no images

    @property
    def logs(self) -> Path:
        """The folder of the workers' logs."""
        return self.folder / "log"

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats: several are missing before anything is concluded."""
        return min(1.0, self.heartbeat_timeout / 4)
