"""What `megaflow doctor` looks at, from the interpreter to a step of an environment."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import grpc

from megaflow.connection import Connection, connect
from megaflow.embedded import configured_server
from megaflow.env import RemoteEnv
from megaflow.errors import MegaflowError
from megaflow.gateway_connection import GatewayConnection
from megaflow.network import BlockingNetwork
from megaflow.transport.channels import fork_support
from megaflow.transport.io import run
from megaflow.transport.options import CLIENT
from megaflow_server.cli.doctor_sandboxes import containers, rooms
from megaflow_server.cli.errors import explain
from megaflow_server.cli.report import Finding
from megaflow_server.cpus import usable_cpus
from megaflow_server.gateway.server import private_folder

_PACKAGES = ("megaflow", "gymnasium", "grpcio", "protobuf", "numpy")

# What is imported where it is used, by its import name: what for, and where to get it.
_OPTIONAL = {
    "pygame": ("rendering gymnasium's own environments", 'pip install "megaflow[render]"'),
    "sqlalchemy": ("tasks, which are `megaflow run`'s", 'pip install "megaflow[server]"'),
    "kubernetes": (
        "environments in pods, which this version does not have yet",
        "pip install kubernetes",
    ),
}

# Seconds that the speed of one session is measured for.
_MEASURED = 0.5
# Below this much free memory even small environments get into trouble; GiB.
_LITTLE_MEMORY = 0.5


def checks(server: str | None) -> Iterator[Finding]:
    """A finding for each check, as they are made; what cannot be looked at any more is left out."""
    server = server or configured_server()
    yield _python()
    yield _packages()
    yield _machine()
    yield _fork()
    if server is None:
        yield _attempt("sockets", _sockets, "set TMPDIR to a short folder that you may write to")
        yield _attempt("loopback", _loopback, "allow connections to 127.0.0.1 on this machine")
    yield from _server(server)
    if sys.platform == "linux":
        yield rooms()
    yield containers()
    yield from map(_optional, _OPTIONAL)


def _attempt(name: str, check: Callable[[], str], way_out: str) -> Finding:
    try:
        return Finding(name, "ok", check())
    except Exception as error:  # a doctor reports, whatever the illness
        return Finding(
            name, "failed", explain(error) or f"{type(error).__name__}: {error}", way_out
        )


def _python() -> Finding:
    detail = f"{platform.python_version()} at {sys.executable}, {platform.platform(terse=True)}"
    if sys.platform == "linux":
        return Finding("python", "ok", detail)
    way_out = "servers, the embedded one too, run on Linux: connect to one with --server ADDR"
    return Finding("python", "warning", detail, way_out)


def _packages() -> Finding:
    versions, missing = [], []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if not missing:
        return Finding("packages", "ok", ", ".join(versions))
    detail = f"{', '.join(versions)}; not installed: {', '.join(missing)}"
    # Their code is there, or this would not run: a source tree, or a copied folder.
    return Finding("packages", "warning", detail, f"pip install {' '.join(missing)}")


def _machine() -> Finding:
    if sys.platform != "linux":
        return Finding("machine", "ok", f"{os.cpu_count()} CPUs")
    total, free = _memory("MemTotal"), _memory("MemAvailable")
    detail = f"{usable_cpus()} of {os.cpu_count()} CPUs usable, {free:.1f} of {total:.1f} GiB memory free"
    if free < _LITTLE_MEMORY:
        return Finding("machine", "warning", detail, "end other programs, or serve fewer --workers")
    return Finding("machine", "ok", detail)


def _memory(name: str) -> float:
    """A line of /proc/meminfo, in GiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kibibytes,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kibibytes) / 2**20


def _fork() -> Finding:
    if fork_support():
        return Finding("fork", "ok", "gRPC's fork support is on")
    detail = (
        "gRPC's fork support is off: forked processes, as AsyncVectorEnv makes them, cannot connect"
    )
    way_out = "unset GRPC_ENABLE_FORK_SUPPORT, and import megaflow before grpc"
    return Finding("fork", "warning", detail, way_out)


def _sockets() -> str:
    async def bind() -> Path:
        async with private_folder() as folder:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(str(folder / "worker-9999-999999.sock"))
            return folder.parent

    return f"sockets can be made in {asyncio.run(bind())}"


def _loopback() -> str:
    handler = grpc.method_handlers_generic_handler(
        "megaflow.doctor",
        {"Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request)},
    )
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=CLIENT) as channel:
            echo: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/megaflow.doctor/Echo"
            )
            echo(b"", timeout=5.0, wait_for_ready=True)
            start = time.perf_counter()
            echo(b"", timeout=5.0)
            elapsed = time.perf_counter() - start
    finally:
        server.stop(grace=None).wait()
    return f"gRPC over 127.0.0.1 answers in {elapsed * 1000:.1f} ms"


def _server(address: str | None) -> Iterator[Finding]:
    start = time.perf_counter()
    try:
        connection = run(connect(BlockingNetwork(), address))
    except MegaflowError as error:  # says the way out itself
        yield Finding("server", "failed", error.message)
        return
    try:
        yield _reached(connection, address, time.perf_counter() - start)
        way_out = "`megaflow envs check CartPole-v1` says more; the server's log may, too"
        yield _attempt("session", lambda: _session(address), way_out)
    finally:
        run(connection.close())


def _reached(connection: Connection, address: str | None, elapsed: float) -> Finding:
    if address is None:
        return Finding("server", "ok", f"an embedded server started in {elapsed:.1f} s")
    if not isinstance(connection, GatewayConnection):
        return Finding("server", "ok", f"{address}: environments run in the calling process")
    hello = connection.hello
    detail = (
        f"{address} answers in {elapsed * 1000:.0f} ms: megaflow {hello.megaflow_version}, gymnasium "
        f"{hello.gymnasium_version}, {hello.workers} workers"
    )
    ours = version("gymnasium")
    if hello.gymnasium_version == ours:
        return Finding("server", "ok", detail)
    way_out = f"gymnasium is {ours} here; where versions differ, so may environments of the same id"
    return Finding("server", "warning", detail, way_out)


def _session(address: str | None) -> str:
    start = time.perf_counter()
    with closing(RemoteEnv("CartPole-v1", address)) as env:
        env.reset(seed=0)
        opened = time.perf_counter()
        steps = 0
        while time.perf_counter() < opened + _MEASURED:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            steps += 1
            if terminated or truncated:
                env.reset()
        rate = steps / (time.perf_counter() - opened)
    return f"CartPole-v1 opened in {opened - start:.1f} s, {rate:,.0f} steps/s one by one"


def _optional(name: str) -> Finding:
    purpose, way_out = _OPTIONAL[name]
    if find_spec(name) is not None:
        return Finding(name, "ok", f"installed, for {purpose}")
    return Finding(name, "ok", f"not installed, needed for {purpose} alone", way_out)
