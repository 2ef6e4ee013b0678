"""The `requires` marker: a test that needs something of the machine says so, and is skipped without it.

A skip can hide a broken set-up, so MEGAFLOW_TEST_REQUIRE (names, comma-separated) lists what must be there;
a test that needs one of these then fails instead.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import pytest

from postgres_server import binaries

VARIABLE = "MEGAFLOW_TEST_REQUIRE"


def may_mount() -> bool:
    """Whether a file system can be mounted, in a namespace that nobody else sees."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    tried = [unshare, "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs"]
    return (
        subprocess.run([*tried, "none", "/mnt"], capture_output=True, check=False).returncode == 0
    )


def _engine_answers() -> bool:
    """Whether a Docker Engine answers a ping, where DOCKER_HOST says or at its usual place."""
    if find_spec("docker") is None:
        return False
    scheme, _, path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    if scheme != "unix":
        return False
    return pinged(path)


def pinged(path: str) -> bool:
    """Whether a Docker Engine answers at a socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(path)
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in connection.recv(64)
        except OSError:
            return False


def _has_namespaces() -> bool:
    """Whether this host lets us have namespaces as a sandbox made of processes needs them (unshare(2))."""
    flags = 0x20000 | 0x20000000 | 0x40000000 | (0x10000000 if os.geteuid() else 0)
    program = f"import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare({flags}) != 0)"
    return subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False).returncode == 0


# What a test can require, and how its presence is seen. One line per name.
PROBES: Mapping[str, Callable[[], bool]] = {
    "anthropic": lambda: find_spec("anthropic") is not None,
    "atif": lambda: find_spec("atif") is not None,
    "datasets": lambda: find_spec("datasets") is not None,
    "dmenv": lambda: find_spec("dm_env") is not None,
    "docker": _engine_answers,
    "postgres": lambda: binaries() is not None,
    "miniswe": lambda: find_spec("minisweagent") is not None,
    "moviepy": lambda: find_spec("moviepy") is not None,
    "namespaces": _has_namespaces,
    "openai": lambda: find_spec("openai") is not None,
    "pandas": lambda: find_spec("pandas") is not None,
    "pettingzoo": lambda: find_spec("pettingzoo") is not None,
    "pygame": lambda: find_spec("pygame") is not None,
    "rllib": lambda: find_spec("ray") is not None,
    "sb3": lambda: find_spec("stable_baselines3") is not None,
    "tianshou": lambda: find_spec("tianshou") is not None,
    "tmpfs": may_mount,
    "torchrl": lambda: find_spec("torchrl") is not None,
    "transformers": lambda: find_spec("transformers") is not None,
}


def enforced(text: str, known: Mapping[str, object] = PROBES) -> frozenset[str]:
    """The names in the variable's value; UsageError for one that no test can require."""
    names = frozenset(name.strip() for name in text.split(",")) - {""}
    if unknown := sorted(names - set(known)):
        raise pytest.UsageError(
            f"{VARIABLE} names {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    return names


def check(
    names: tuple[str, ...],
    must: frozenset[str],
    probes: Mapping[str, Callable[[], bool]] = PROBES,
) -> None:
    """Skip the calling test where one of `names` is missing, or fail it where that one is in `must`."""
    for name in names:
        if name not in probes:
            raise pytest.UsageError(
                f"requires({name!r}): known are {', '.join(sorted(probes))}; add a probe in {__name__}"
            )
        if probes[name]():
            continue
        if name in must:
            pytest.fail(f"{name} is missing, and {VARIABLE} names it", pytrace=False)
        pytest.skip(f"{name} is missing")


def setup(item: pytest.Item) -> None:
    """Apply the item's `requires` markers."""
    must = enforced(os.environ.get(VARIABLE, ""))
    for marker in item.iter_markers("requires"):
        check(marker.args, must)
