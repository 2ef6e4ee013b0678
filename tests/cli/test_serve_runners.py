"""Tasks through a real server and its runner; what is killed meanwhile changes no result."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import megaflow
from commands import Serve
from leftovers import Place
from megaflow.trajectory import ModelCall, TrajectoryReader
from megaflow_server.orchestrator.store.opening import open_store

WORKING = ("--workers", "2", "--import", "runner_environments", "--concurrency", "16")
TESTS = str(Path(__file__).parent.parent)
CARTS = [megaflow.Task("CartPole-v1", "random") for _ in range(40)]


@pytest.fixture
def start(
    serve: Serve, place: Place, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, int]]:
    """A server with a runner; its address, and its process."""
    monkeypatch.setenv("PYTHONPATH", TESTS)
    address = f"unix:{place.folder / 's.sock'}"
    store = f"sqlite:///{place.folder / 'tasks.db'}"

    def started(*options: str) -> tuple[str, int]:
        served = serve("--listen", address, *WORKING, "--store", store, *options)
        return served.addresses[0], served.process.pid

    return started


def runners(place: Place) -> list[int]:
    """The processes that are runners."""
    return [pid for pid, command in place.processes().items() if " runner " in command]


@pytest.mark.long
def test_tasks_are_executed_as_they_are_submitted(
    start: Callable[..., tuple[str, int]], place: Place
) -> None:
    address, pid = start()
    names = ("Counting", "Judged", "Raising", "Unjudged", "Unmakeable", "Dying")
    tasks = [megaflow.Task(f"runner/{name}-v0", "ones") for name in names]
    with megaflow.Client(address) as client:
        job = client.submit(tasks, seed=1)
        results = sorted(job.results(timeout=120), key=lambda result: result.index)
    found = {
        name: result.reward if result.failure is None else result.failure.kind
        for name, result in zip(names, results, strict=True)
    }
    assert found == {
        "Counting": 3.0,
        "Judged": 1.0,
        "Raising": "environment",
        "Unjudged": "verifier",
        "Unmakeable": "environment",
        "Dying": "worker_died",
    }
    assert [result.valid for result in results] == [True, True, False, False, False, False]
    assert results[5].state == "quarantined"
    trajectory = TrajectoryReader(results[0].trajectory)
    assert [record.kind for record in trajectory][-2:] == ["verdict", "end"]
    os.kill(pid, signal.SIGTERM)


@pytest.mark.long
def test_a_step_ends_at_the_servers_limit_and_what_attempts_use_is_known(
    start: Callable[..., tuple[str, int]], place: Place
) -> None:
    address, pid = start("--step-timeout", "1")
    hanging = megaflow.Task("runner/Hanging-v0", "ones")
    # Its agent does nothing for some seconds, and is evaluated as it stands.
    idle = megaflow.Task("runner/Counting-v0", "waiting", limits=megaflow.Limits(start_to_close=8))
    with megaflow.Client(address) as client:
        results = sorted(
            client.submit([hanging, idle], seed=1).results(timeout=120), key=lambda one: one.index
        )
    failure = results[0].failure
    assert failure is not None
    assert (failure.kind, failure.phase) == ("environment", "running")
    assert "step" in failure.reason
    assert results[1].valid
    os.kill(pid, signal.SIGTERM)
    store = open_store(f"sqlite:///{place.folder / 'tasks.db'}")
    try:
        peak = store.find_peak("local", "runner/Counting-v0")
    finally:
        store.close()
    assert peak is not None
    assert 10 << 20 < peak.memory < 2 << 30
    assert peak.cpu < 1.0


def rewards(address: str, meanwhile: Callable[[], None] = lambda: None) -> list[float | None]:
    with megaflow.Client(address) as client:
        job = client.submit(CARTS, seed=7)
        meanwhile()
        results = list(job.results(timeout=180))
    assert len(results) == len({result.task_id for result in results}) == len(CARTS)
    assert all(result.valid for result in results)
    return [result.reward for result in sorted(results, key=lambda result: result.index)]


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", ["runner", "worker", "server"])
def test_kills_change_no_result(
    start: Callable[..., tuple[str, int]], place: Place, victim: str
) -> None:
    address, pid = start()
    expected = rewards(address)

    def kill() -> None:
        time.sleep(0.3)
        victims = {"runner": runners(place), "worker": place.workers(), "server": [pid]}[victim]
        assert victims
        for one in victims:
            os.kill(one, signal.SIGKILL)
        if victim == "server":
            start()

    assert rewards(address, kill) == expected


@pytest.mark.long
def test_its_runners_know_the_models_of_its_configuration(
    start: Callable[..., tuple[str, int]], tmp_path: Path
) -> None:
    config = tmp_path / "megaflow.toml"
    price = "price = { input_per_million = 1.0, output_per_million = 1.0 }"
    config.write_text(f'[models.echo]\nkind = "scripted"\nanswers = ["mine"]\n{price}\n')
    address, _ = start("--config", str(config))
    tasks = [
        megaflow.Task("runner/Counting-v0", "asking", models={"policy": name})
        for name in ("echo", "ecko")
    ]
    with megaflow.Client(address) as client:
        known, unknown = sorted(
            client.submit(tasks).results(timeout=120), key=lambda result: result.index
        )
    assert known.valid, known.failure
    assert known.cost is not None
    assert known.cost > 0
    (call,) = (one for one in TrajectoryReader(known.trajectory) if isinstance(one, ModelCall))
    assert call.call["response"]["content"] == "mine"
    assert unknown.failure is not None
    assert "did you mean 'echo'?" in unknown.failure.reason
