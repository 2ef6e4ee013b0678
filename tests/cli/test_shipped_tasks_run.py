"""Every shipped task, through a real server and its runner: its solution scores 1, and doing nothing 0."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import docker_images
import megaflow
from commands import Serve
from docker_rig import engine, new_scope
from leftovers import Place
from megaflow_envs.shipped import swe_dataset, terminal_tasks

TESTS = str(Path(__file__).parent.parent)


def tasks(agent: str, **fields: str) -> Iterator[megaflow.Task]:
    for name in terminal_tasks():
        yield megaflow.Task("megaflow/Terminal-v0", agent, env_kwargs={"task": name, **fields})
    for line in swe_dataset("megaflow:swe").read_text().splitlines():
        row = {"dataset": "megaflow:swe", "instance_id": json.loads(line)["instance_id"]}
        yield megaflow.Task("megaflow/SWE-v0", agent, env_kwargs={**row, **fields})


def run_all(address: str, **fields: str) -> Iterator[megaflow.Result]:
    """The results of all tasks, with and without their solutions, which score as they should."""
    with megaflow.Client(address) as client:
        for agent, reward in (("oracle", 1.0), ("nop", 0.0)):
            asked = list(tasks(agent, **fields))
            results = list(client.submit(asked).results(timeout=200))
            assert {result.failure for result in results} == {None}
            assert [result.reward for result in results] == [reward] * len(asked)
            assert all(Path(result.trajectory).is_file() for result in results)
            yield from results


@pytest.fixture
def listen(place: Place) -> tuple[str, ...]:
    """Arguments of a server with a store and a runner."""
    address, store = f"unix:{place.folder / 's.sock'}", f"sqlite:///{place.folder / 'tasks.db'}"
    return ("--listen", address, "--store", store)


@pytest.mark.long
@pytest.mark.requires("namespaces")
@pytest.mark.timeout(240)
def test_solutions_score_1_and_doing_nothing_0(serve: Serve, listen: tuple[str, ...]) -> None:
    served = serve(*listen)
    assert not any(result.retries for result in run_all(served.addresses[0]))
    assert served.end() == 0


@pytest.mark.long
@pytest.mark.requires("docker")
@pytest.mark.timeout(400)
def test_in_containers_as_well(serve: Serve, place: Place, listen: tuple[str, ...]) -> None:
    scope = new_scope()
    config = place.script(
        "megaflow.toml",
        f'[docker]\nscope = "{scope}"\n[templates.bench]\nbackend = "docker"\n'
        f'image = "{docker_images.workbench()}"\nprofile = "standard"\npool = {{ max = 4 }}\n',
    )
    served = serve(*listen, "--config", str(config))
    assert not any(result.retries for result in run_all(served.addresses[0], template="bench"))
    assert served.end() == 0
    client = engine()
    labelled = {"label": f"megaflow-scope={scope}"}
    assert client.containers.list(all=True, filters=labelled) == []
    client.close()


@pytest.mark.long
@pytest.mark.requires("namespaces")
@pytest.mark.timeout(240)
def test_workers_that_die_cost_retries_and_change_no_score(
    serve: Serve, place: Place, listen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", TESTS)
    monkeypatch.setenv("MEGAFLOW_TEST_FAULTS", str(place.folder / "faults"))
    served = serve(*listen, "--import", "dying_workers")
    results = list(run_all(served.addresses[0]))
    # Two workers at least, for 14 tasks: more than one in twenty; what else they had is tried again, too.
    assert (place.folder / "faults").stat().st_size >= 16
    assert sum(result.retries for result in results) >= 2
    assert served.end() == 0
