"""How many attempts run at once whose requests are four times their use, beside what requests alone would allow.

    python benchmarks/packing.py [--tasks 200] [--json]

Attempts hold 48 MiB and mostly sleep. Their use is measured first, from outside: the memory of the server's workers
while some of them run. Then they request four times as much, on a runner that has memory for ten such requests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym

import megaflow
from megaflow import Amount, Job, Resources, Task
from megaflow_server.bench.machine import this_machine

HOLD, SERVER = "packing/Hold-v0", (sys.executable, "-m", "megaflow_server")
TIMES, BY_REQUESTS, FIRST = 4, 10, 16
MIB = 1 << 20


class Hold(gym.Env[Any, Any]):
    """Holds 48 MiB for 12 s."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.held, self.steps = bytearray(48 * MIB), 0
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(2.0)
        self.steps += 1
        return 0, 1.0, self.steps >= 6, False, {}


gym.register(HOLD, entry_point="packing:Hold")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    machine = this_machine()
    with serving() as (address, pid, variables):
        with running(address, variables, ()), megaflow.Client(address) as client:
            use = used(client, pid)
        request = TIMES * use
        memory = ("--memory", f"{BY_REQUESTS * request // MIB}Mi")
        with running(address, variables, memory), megaflow.Client(address) as client:
            job = submitted(client, asked.tasks, request)
            most = max(at_once(job))
            results = list(job.results())
    found = {
        "use_mib": use // MIB,
        "request_mib": request // MIB,
        "at_once_by_requests": BY_REQUESTS,
        "at_once": most,
        "ratio": most / BY_REQUESTS,
        "valid": sum(one.valid for one in results),
        "retries": sum(one.retries for one in results),
    }
    if asked.json:
        print(
            json.dumps({"machine": machine, "tasks": asked.tasks, **found}, indent=2, default=vars)
        )
    else:
        for name, value in found.items():
            print(f"{name:20} {value}")


@contextmanager
def serving() -> Iterator[tuple[str, int, dict[str, str]]]:
    """A server that keeps tasks, without a runner: where it is, its process, and its variables."""
    with tempfile.TemporaryDirectory(prefix="megaflow-packing-") as folder:
        address = f"unix:{folder}/s.sock"
        here = str(Path(__file__).parent)
        variables = {**os.environ, "PYTHONPATH": here, "MEGAFLOW_STATE": folder}
        told = ("--listen", address, "--store", f"sqlite:///{folder}/tasks.db", "--runners", "0")
        process = subprocess.Popen(
            (*SERVER, "serve", *told, "--import", "packing", "--workers", "2"),
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it says that it serves
            yield address, process.pid, variables
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def running(address: str, variables: dict[str, str], memory: tuple[str, ...]) -> Iterator[None]:
    """A runner beside it."""
    told = ("--server", address, "--concurrency", "500", *memory)
    with subprocess.Popen((*SERVER, "runner", *told), env=variables) as process:
        try:
            yield
        finally:
            process.terminate()


def submitted(client: megaflow.Client, count: int, request: int) -> Job:
    requests = Resources(requests=Amount(memory=request))
    return client.submit([Task(HOLD, "random", resources=requests) for _ in range(count)])


def at_once(job: Job) -> Iterator[int]:
    """How many run, every half second until all have ended."""
    while not (status := job.status()).complete:
        yield sum(status.states.get(name, 0) for name in ("starting", "running", "evaluating"))
        time.sleep(0.5)


def used(client: megaflow.Client, server: int) -> int:
    """Bytes of one attempt, its share of what its worker takes besides included."""
    job = submitted(client, FIRST, 0)
    most = 0
    for count in at_once(job):
        if count == FIRST:
            most = max(most, sum(map(resident, children(server))))
    return most // FIRST


def children(pid: int) -> list[int]:
    """All processes that a process has started, and those have."""
    own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [one for child in map(int, own) for one in (child, *children(child))]


def resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
