"""A worker in a container: it shares one folder with its gateway, for its sockets, and reaches nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from megaflow_server.backends.base import InstanceSpec, Limits, Mount
from megaflow_server.launch import BOOTSTRAP, WorkerConfig

__all__ = ["config_inside", "make_folder", "spec_inside"]

# Who a server that runs as root has its workers be.
_NOBODY = 65534
# The init process of the container, which starts the worker and ends with it.
_INIT = 1
# -P: no file of the working directory is imported in place of the standard library.
_COMMAND: Sequence[str] = ("python3", "-P", "-c", BOOTSTRAP)


def make_folder(folder: Path) -> None:
    """Make the folder of a worker's sockets, which is nobody else's."""
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)


def config_inside(config: WorkerConfig) -> WorkerConfig:
    """What a worker is told that has the image's own packages, and no parent here."""
    return replace(config, parent=_INIT, import_paths=[])


def spec_inside(spec: InstanceSpec, image: str, folder: Path, memory: int | None) -> InstanceSpec:
    """The worker of a spec as a container of an image; nothing of the server's environment goes along.

    Args:
        memory: bytes that it takes at most, which its engine sees to; None for what its profile says.
    """
    root = os.geteuid() == 0
    user, group = (_NOBODY, _NOBODY) if root else (os.geteuid(), os.getegid())
    return replace(
        spec,
        argv=tuple(_COMMAND),
        environ={"HOME": "/tmp", "GRPC_ENABLE_FORK_SUPPORT": "0"},
        directory=None,
        image=image,
        profile="strict",
        network="none",
        user=f"{user}:{group}",
        mounts=(Mount(folder, str(folder), read_only=False),),
        read_only=True,
        limits=Limits(memory=memory),
    )
