"""`megaflow serve` with sandboxes to lend, as a process that tests may end."""

from __future__ import annotations

from pathlib import Path

import lent_environments
import megaflow
from commands import SERVE, Served
from docker_rig import busybox, engine
from fault_scene import wait_for
from leftovers import GONE_WITHIN, Place
from megaflow_server.runs import STATE_VARIABLE

__all__ = ["LEASE", "Server"]

LEASE = 2.0


class Server:
    """`megaflow serve` with a template "box", of which there are three at most."""

    def __init__(self, here: Place, kind: str, scope: str) -> None:
        here.script("lent_environments.py", Path(lent_environments.__file__).read_text())
        image = f'image = "{busybox()}"\nprofile = "standard"\n' if kind == "docker" else ""
        config = here.script(
            "megaflow.toml",
            f'[server]\nlease = {LEASE}\ndrain_grace = 1.0\n[docker]\nscope = "{scope}"\n'
            f'[templates.box]\nbackend = "{kind}"\n{image}pool = {{ max = 3 }}\n',
        )
        self.here, self.kind, self.scope = here, kind, scope
        self._arguments = (
            "--workers",
            "2",
            "--import",
            "lent_environments",
            "--config",
            str(config),
        )
        self._count = 0
        self.start()

    def start(self) -> None:
        self._count += 1
        listen = ("--listen", f"unix:{self.here.folder}/{self._count}.sock")
        state = {STATE_VARIABLE: str(self.here.folder / "state")}
        self.process = self.here.start(*SERVE, *listen, *self._arguments, variables=state)
        (self.address,) = Served(self.process, 1).addresses

    def leased(self) -> int:
        with megaflow.Client(self.address) as client:
            return sum(pool.leased for pool in client.pools())

    def wait_for_none(self, seconds: float = GONE_WITHIN) -> None:
        wait_for(lambda: self.leased() == 0, seconds, self.leased)

    def run(self) -> str:
        with megaflow.Client(self.address) as client:
            return client.pools()[0].run

    def images(self) -> list[str]:
        """What its snapshots left, and nobody has removed yet."""
        client = engine()
        try:
            # Not by `images.list`, which asks for each once more, and fails where one is gone by then.
            filters = {"label": f"megaflow.run={self.run()}"}
            return [*client.api.images(quiet=True, filters=filters)]
        finally:
            client.close()

    def containers(self) -> list[str]:
        client = engine()
        try:
            found = client.containers.list(
                all=True, filters={"label": f"megaflow-scope={self.scope}"}, ignore_removed=True
            )
            return [one.id for one in found]
        finally:
            client.close()

    def finish(self) -> str:
        return self.process.communicate(timeout=60)[1]
