"""What an environment does wrong, through a real server and a runner of its own: told as what it is, and no score."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from commands import PATIENCE, Serve
from leftovers import Place
from megaflow import Client, Result, Task
from megaflow.errors import NotFound
from megaflow.trajectory import TrajectoryReader, find

TESTS = str(Path(__file__).parent.parent)
STEP_TIMEOUT = 2.0

Runner = Callable[..., int]


@pytest.fixture
def address(serve: Serve, place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """A server that has no runner."""
    monkeypatch.setenv("PYTHONPATH", TESTS)
    store = f"sqlite:///{place.folder / 'tasks.db'}"
    served = serve(
        *("--listen", f"unix:{place.folder / 's.sock'}", "--store", store, "--runners", "0"),
        *("--workers", "1", "--worker-memory-limit", "1G", "--import", "runner_environments"),
    )
    return served.addresses[0]


@pytest.fixture
def runner(place: Place, address: str) -> Iterator[Runner]:
    """`megaflow runner ARGUMENTS…`; its process."""
    with ExitStack() as running:

        def start(*arguments: str) -> int:
            process = place.start(
                *("-P", "-m", "megaflow_server", "runner", "--server", address),
                *("--import", "runner_environments", "--step-timeout", str(STEP_TIMEOUT)),
                *arguments,
                MEGAFLOW_STATE=str(place.folder / "state"),
            )
            running.enter_context(process)  # closes its pipes
            running.callback(process.kill)
            return process.pid

        yield start


def results_of(address: str, *names: str) -> list[Result]:
    """Of these environments, in this order, an agent's that goes on whatever they do."""
    with Client(address) as client:
        job = client.submit([Task(f"runner/{name}-v0", "swallowing") for name in names], seed=1)
        return sorted(job.results(timeout=100), key=lambda result: result.index)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_step_that_hangs_is_told_and_its_worker_serves_others(
    address: str, runner: Runner
) -> None:
    runner("--concurrency", "1")
    hung, after = results_of(address, "Hanging", "Counting")
    assert (hung.valid, hung.reward, hung.retries) == (False, None, 0)
    assert hung.failure is not None
    assert (hung.failure.kind, hung.failure.phase) == ("environment", "running")
    assert "step_timeout" in hung.failure.reason
    assert (after.valid, after.reward) == (True, 3.0)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_want_of_memory_is_told_and_is_no_score(address: str, runner: Runner) -> None:
    runner("--concurrency", "1", "--step-timeout", "30")
    starved, after = results_of(address, "Devouring", "Counting")
    assert (starved.valid, starved.reward, starved.state) == (False, None, "quarantined")
    assert starved.failure is not None
    assert (starved.failure.kind, starved.failure.phase) == ("worker_died", "running")
    assert "memory" in starved.failure.reason
    assert (after.valid, after.reward) == (True, 3.0)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_killed_runners_trajectories_are_uploaded_by_the_next(
    address: str, runner: Runner, place: Place
) -> None:
    kept = place.folder / "kept"
    # A folder by a name that stands for a store: fsspec's.
    killed = runner("--concurrency", "1", "--trajectories", f"local://{kept}")
    with Client(address) as client:
        client.submit([Task("runner/Counting-v0", "waiting")])
        deadline = time.monotonic() + PATIENCE
        spool = place.folder / "state" / "spool"
        while "step" not in written(spool):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(killed, signal.SIGKILL)
        assert written(kept) == []
        runner("--concurrency", "1", "--trajectories", f"local://{kept}")
        while not written(kept):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert written(kept)[:3] == ["start", "reset", "step"]
    assert written(spool) == []


def written(folder: Path) -> list[str]:
    """The records of the trajectories in a folder."""
    try:
        return [record.kind for name in find(folder) for record in TrajectoryReader(name)]
    except NotFound:
        return []
