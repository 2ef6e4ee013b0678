"""A PostgreSQL server for tests: a cluster of its own in a temporary folder, reached over a Unix socket alone."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

# Where Debian puts the server's programs, which are not on the PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_PATIENCE = 60.0


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; None where there is no PostgreSQL."""
    versions = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found is not None else None


class PostgresServer:
    """Runs from `with` on; `url` is its database's. `kill` and `start` are for tests of faults.

    Args:
        where: the folder that its own is made in; by default that for temporary files.
    """

    def __init__(self, where: Path | None = None) -> None:
        programs = binaries()
        assert programs is not None
        self._programs = programs
        self._folder = tempfile.TemporaryDirectory(prefix="megaflow-postgres-", dir=where)
        self._place = Path(self._folder.name)
        self._user: str | None = None
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            self._user = "postgres"
            entry = pwd.getpwnam(self._user)
            os.chown(self._place, entry.pw_uid, entry.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?host={self._place}&user=postgres"

    def __enter__(self) -> PostgresServer:
        data = self._place / "data"
        asked: list[str | Path] = [
            self._programs / "initdb",
            "-D",
            data,
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
        ]
        subprocess.run(
            [*asked, "-E", "UTF8", "--locale=C"],
            user=self._user,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.start()
        return self

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["-c", "listen_addresses=", "-k", str(self._place), "-c", "max_connections=50"]
        with (self._place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._place / "data", *options],
                user=self._user,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            self._wait()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + _PATIENCE
        ready: list[str | Path] = [self._programs / "pg_isready", "-q", "-h", self._place]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, (self._place / "log").read_text()
            assert time.monotonic() < end, "PostgreSQL does not answer"
            time.sleep(0.05)

    def revive(self) -> None:
        """Start it again where it has ended by itself."""
        assert self._process is not None
        if self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """SIGKILL its main process; the others see that, and end: only then can it start again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # from here on it has no other children
        main = self._process.pid
        others = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        self._process.kill()
        self._process.wait()
        end = time.monotonic() + _PATIENCE
        while any(map(_runs, others)):
            assert time.monotonic() < end, "processes of a killed PostgreSQL do not end"
            time.sleep(0.005)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        self._folder.cleanup()


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
