"""What a benchmark ran on, without which its numbers say nothing. No names of hosts or users."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from megaflow_server.cpus import usable_cpus

_PACKAGES = ("megaflow", "gymnasium", "numpy", "grpcio", "protobuf")


@dataclass(frozen=True)
class Machine:
    """The machine and what is installed on it.

    Attributes:
        cores: that this process may use.
        load: how many processes ran or waited to, on average over the minute before: what else was going on.
        packages: versions by name.
    """

    cpu: str
    cores: int
    load: float
    system: str
    python: str
    packages: dict[str, str]


def this_machine() -> Machine:
    """The machine that this process runs on, now."""
    return Machine(
        cpu=_cpu(Path("/proc/cpuinfo")),
        cores=usable_cpus(),
        load=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {_major_minor(platform.release())}",
        python=platform.python_version(),
        packages={name: version(name) for name in _PACKAGES},
    )


def _major_minor(release: str) -> str:
    """Without what a builder of kernels adds, which may name a site."""
    return ".".join(release.split(".")[:2])


def _cpu(cpuinfo: Path) -> str:
    """The processor's name as the kernel knows it; on ARM, where it knows none, the architecture."""
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
