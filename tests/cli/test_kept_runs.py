"""Sandboxes of attempts that failed: kept for whoever asks for their task."""

from __future__ import annotations

import pytest

import megaflow
from commands import Serve, run_command
from fault_scene import wait_for
from leftovers import Place
from megaflow.keeping import Keep

KEPT: tuple[tuple[str, Keep], ...] = (("oracle", "failed"), ("nop", "failed"), ("nop", "none"))


@pytest.mark.long
@pytest.mark.requires("namespaces")
@pytest.mark.timeout(120)
def test_a_failed_attempts_sandbox_is_found_by_its_task(
    serve: Serve, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    address, store = f"unix:{place.folder / 's.sock'}", f"sqlite:///{place.folder / 'tasks.db'}"
    served = serve("--listen", address, "--store", store)
    (server,) = served.addresses
    with megaflow.Client(server) as client:
        tasks = [
            megaflow.Task(
                "megaflow/Terminal-v0",
                agent,
                env_kwargs={"task": "megaflow:find-copies"},
                keep=keep,
            )
            for agent, keep in KEPT
        ]
        job = client.submit(tasks, name="mon")
        assert [one.valid for one in job.results(timeout=100)] == [True] * 3

        def kept() -> list[str | None]:
            return [one.task for one in client.sandboxes() if one.kind == "kept"]

        wait_for(lambda: kept() == [f"{job.id}/1"], 20.0, client.sandboxes)
        assert client.run_inside(f"{job.id}/1", "echo there").stdout == b"there\n"
    said = run_command(capsys, "shell", "mon/1", "--drop", "--server", server)
    assert said.out == f"Gone: 1 sandbox of {job.id}/1.\n"
    absent = run_command(capsys, "shell", "mon/9", "--server", server, "--", "true")
    assert (absent.status, "mon/9" in absent.err or "/9" in absent.err) == (2, True)
    assert served.end() == 0
