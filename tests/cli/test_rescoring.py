"""`megaflow rescore`: verifiers once more, on what agents left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import docker_images
from commands import Outcome, Serve, run_command
from docker_rig import new_scope
from leftovers import Place
from megaflow_envs.shipped import terminal_task


def job_file(place: Place, agent: str, template: str) -> Path:
    """A job of one task, whose verifier expects something else than its solution gives."""
    task = place.folder / "tasks" / "find-copies"
    shutil.copytree(terminal_task("megaflow:find-copies"), task)
    (task / "tests" / "expected.txt").write_text("something else\n")
    kwargs = f'env_kwargs = {{ template = "{template}" }}\n' if template else ""
    return place.script(
        "job.toml",
        f'name = "mon"\nagent = "{agent}"\nsamples = 2\nsnapshot = true\n'
        f'[[datasets]]\npath = "tasks"\n{kwargs}',
    )


def mend(place: Place) -> None:
    expected = Path(terminal_task("megaflow:find-copies")) / "tests" / "expected.txt"
    shutil.copy(expected, place.folder / "tasks" / "find-copies" / "tests" / "expected.txt")


@pytest.mark.long
@pytest.mark.requires("docker")
@pytest.mark.timeout(200)
def test_a_mended_verifier_judges_what_was_left(
    serve: Serve, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    config = place.script(
        "megaflow.toml",
        f'[docker]\nscope = "{new_scope()}"\n[templates.bench]\nbackend = "docker"\n'
        f'image = "{docker_images.workbench()}"\nprofile = "standard"\npool = {{ max = 4 }}\n',
    )
    store = f"sqlite:///{place.folder / 'tasks.db'}"
    address = f"unix:{place.folder / 's.sock'}"
    served = serve("--listen", address, "--store", store, "--config", str(config))

    def said(*arguments: str) -> Outcome:
        return run_command(capsys, *arguments, "--server", address)

    ran = said("run", "-d", str(job_file(place, "oracle", "bench")), "--plain")
    assert "2 of 2 samples have a reward, mean reward 0." in ran.out, ran
    mend(place)
    again = said("rescore", "mon", "--plain")
    assert again.status == 0, again
    assert "2 of 2 samples of mon are evaluated once more." in again.out
    assert "mon-rescored: 2 of 2 samples have a reward, mean reward 1." in again.out
    assert said("compare", "mon", "mon-rescored").status == 0
    # It is made of what agents left, and of nothing that was evaluated before.
    twice = said("rescore", "mon", "--name", "tue", "--plain")
    assert "tue: 2 of 2 samples have a reward, mean reward 1." in twice.out, twice
    refused = said("rescore", "tue")
    assert (refused.status, "kept no snapshots" in refused.err) == (2, True)
    assert served.end() == 0


@pytest.mark.long
@pytest.mark.requires("namespaces")
@pytest.mark.timeout(120)
def test_what_keeps_no_snapshots_says_so_and_has_its_reward_all_the_same(
    serve: Serve, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{place.folder / 'tasks.db'}"
    address = f"unix:{place.folder / 's.sock'}"
    served = serve("--listen", address, "--store", store)

    def said(*arguments: str) -> Outcome:
        return run_command(capsys, *arguments, "--server", address)

    ran = said("run", "-d", str(job_file(place, "oracle", "")), "--plain")
    assert "2 of 2 samples have a reward, mean reward 0." in ran.out, ran
    again = said("rescore", "mon", "--plain")
    assert again.status == 1, again
    why = said("logs", "mon-rescored/find-copies").out
    assert "there is no snapshot of" in why
    assert served.end() == 0
