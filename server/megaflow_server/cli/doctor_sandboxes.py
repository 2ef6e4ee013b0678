"""What `megaflow doctor` looks at for sandboxes: namespaces for those of processes, an engine for containers.

Neither is needed by environments that have no sandbox, so that what is missing is no failure.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from megaflow.errors import MegaflowError
from megaflow_server.cli.report import Finding
from megaflow_server.egress import can_listen

__all__ = ["containers", "rooms"]


def rooms() -> Finding:
    """Whether a sandbox made of processes runs a command here."""
    try:
        seconds = asyncio.run(_in_a_room())
    except MegaflowError as error:
        way_out = (
            "run as root, or allow user namespaces (sysctl user.max_user_namespaces); or use docker"
        )
        return Finding("sandboxes", "warning", f"none made of processes: {error.message}", way_out)
    hosts = "can" if can_listen() else "cannot, without root,"
    return Finding(
        "sandboxes",
        "ok",
        f"made of processes, one runs a command in {seconds * 1000:.0f} ms; no security boundary; lists of allowed "
        f"hosts {hosts} be given",
    )


def containers() -> Finding:
    """What containers can be had, and what the engine cannot give."""
    if find_spec("docker") is None:
        detail = "not installed, needed for environments in containers alone"
        return Finding("docker", "ok", detail, 'pip install "megaflow[docker]"')
    from megaflow_server.backends.docker.survey import survey

    try:
        found = asyncio.run(survey())
    except MegaflowError as error:  # says the way out itself
        return Finding("docker", "ok", f"needed for containers alone: {error.message}")
    detail = f"{found.title}; {found.storage}; {found.reuse}"
    if found.lacks:
        return Finding("docker", "warning", detail, "; ".join(found.lacks))
    return Finding("docker", "ok", f"{detail}; profiles strict, standard and trusted can be had")


async def _in_a_room() -> float:
    from megaflow_server.backends.process import ProcessBackend
    from megaflow_server.sandbox.process import ProcessSandbox, Room

    with tempfile.TemporaryDirectory(prefix="megaflow-doctor-") as folder:
        backend = ProcessBackend()
        sandbox = await ProcessSandbox.start(backend, "doctor", Path(folder) / "room", Room())
        try:
            began = time.perf_counter()
            await sandbox.exec(":")
            return time.perf_counter() - began
        finally:
            await sandbox.destroy()
            await backend.close()
