"""What an engine is, and what of our profiles and limits it cannot give: for whoever sets it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaflow_server.backends.docker.calls import Calls
from megaflow_server.backends.docker.isolation import Engine
from megaflow_server.backends.docker.layers import are_seen
from megaflow_server.backends.docker.options import DockerOptions

__all__ = ["Survey", "lacks_of", "reuse_of", "survey"]

_MISSING = {
    "memory": "cannot limit memory, so strict and standard are refused: enable the kernel's memory control group",
    "swap": "cannot limit swap, so limits of memory are refused: boot with swapaccount=1, or use control groups v2",
    "cpu": "cannot limit processors, so strict and standard are refused: enable the kernel's CFS quota",
    "pids": "cannot limit processes, so strict and standard are refused: enable the kernel's pids control group",
}


@dataclass(frozen=True)
class Survey:
    """An engine.

    Attributes:
        title: its versions and where it is.
        storage: how what a container writes is kept to its limit.
        reuse: whether a pool may use one again.
        lacks: what it cannot give, each with what to do.
    """

    title: str
    storage: str
    reuse: str
    lacks: Sequence[str]


async def survey(options: DockerOptions | None = None) -> Survey:
    """Look at the engine.

    Raises:
        FailedPrecondition: none answers, one that is too old, or one of another host.
    """
    options = options or DockerOptions()
    calls = Calls(options)
    try:
        info = await calls("info")
    finally:
        calls.close()
    title = f"Docker Engine {calls.engine} (API {calls.version}) at {options.address}"
    lacks = lacks_of(info, Engine.of(info, options.socket))
    return Survey(title, _storage(info), reuse_of(info), lacks)


def lacks_of(info: Mapping[str, Any], engine: Engine) -> list[str]:
    """What it cannot give, by what it says of itself."""
    lacks = [text for control, text in _MISSING.items() if control not in engine.controls]
    if not engine.seccomp:
        lacks.append(
            "runs without seccomp, so strict and standard are refused: start it with its default profile"
        )
    return lacks


def reuse_of(info: Mapping[str, Any]) -> str:
    """Whether what a container wrote can be compared from here, by what an engine says of itself."""
    if are_seen(info.get("Driver"), Path(info.get("DockerRootDir") or "/absent")):
        return "pools may use containers again"
    return (
        "pools make each container anew: using one again takes a server that is root, and overlay2"
    )


def _storage(info: Mapping[str, Any]) -> str:
    backing = dict(info.get("DriverStatus") or []).get("Backing Filesystem", "unknown")
    # Quotas for single containers are overlay2's on xfs, and only where that is mounted with pquota.
    if info.get("Driver") == "overlay2" and backing == "xfs":
        return "disk limits are quotas where xfs is mounted with pquota, else looked after once a second"
    return f"disk limits are looked after once a second ({info.get('Driver')} on {backing} has no quotas)"
