"""Instances made of a few lines of Python, and ways to look at what became of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from megaflow_server.backends import InstanceSpec

# What a busy machine may take for what normally takes milliseconds.
PATIENCE = 20.0


def script(
    folder: Path,
    instance_id: str,
    code: str,
    *,
    labels: Mapping[str, str] | None = None,
    config: bytes = b"",
    environ: Mapping[str, str] | None = None,
) -> InstanceSpec:
    """A spec that runs Python code, and logs to `<id>.log` in a folder."""
    return InstanceSpec(
        instance_id,
        (sys.executable, "-S", "-c", code),
        folder / f"{instance_id}.log",
        config=config,
        labels=labels or {},
        environ=environ or {},
    )


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return once a condition holds; TimeoutError where it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of other processes, which set no event
            await asyncio.sleep(0.005)


async def appears(path: Path, text: str = "") -> str:
    """The content of a file, once it exists and contains a text."""
    await until(lambda: path.exists() and text.encode() in read(path))
    return read(path).decode(errors="replace")


def read(path: str | Path) -> bytes:
    """The content of a file."""
    return Path(path).read_bytes()


def start(
    code: str, *arguments: str, environ: Mapping[str, str], new_session: bool = True
) -> subprocess.Popen[str]:
    """Python code as a process, with its output on a pipe."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        start_new_session=new_session,
    )


def is_gone(pid: int) -> bool:
    """Whether no process has this id, not even a zombie."""
    return not os.path.exists(f"/proc/{pid}")


def zombies() -> set[int]:
    """The children of this process that have ended and are not reaped."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                stat = Path("/proc", name, "stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent = stat[stat.rindex(b")") + 2 :].split()[:2]
            if state == b"Z" and int(parent) == os.getpid():
                found.add(int(name))
    return found
