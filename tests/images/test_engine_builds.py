from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import run_command
from docker_rig import busybox, docker_backend, engine
from megaflow.errors import FailedPrecondition
from megaflow.task_folders import REPOSITORY, TaskFolder
from task_rig import write_task

pytestmark = pytest.mark.requires("docker")

Build = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """What makes the images of a test its own; they are removed after it."""
    mark = tmp_path.name + str(time.time_ns())
    yield mark
    client = engine()
    try:
        for image in client.images.list(filters={"label": f"test={mark}"}):
            client.images.remove(image.id, force=True)
    finally:
        client.close()


def image_task(folder: Path, mark: str, *lines: str, name: str = "a", seconds: int = 60) -> Path:
    dockerfile = "\n".join([f"FROM {busybox()}", f"LABEL test={mark}", "WORKDIR /app", *lines, ""])
    files = {"environment/Dockerfile": dockerfile, "environment/a": name}
    return write_task(folder, f"[environment]\nbuild_timeout_sec = {seconds}\n", files=files)


@pytest.fixture
def build(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Build:
    config = tmp_path / "megaflow.toml"
    config.write_text('[docker]\nbuild_network = "none"\n')
    monkeypatch.setenv("MEGAFLOW_CONFIG", str(config))

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        done = run_command(capsys, "images", "build", "--json", *map(str, arguments))
        return done.status, json.loads(done.out), done.err

    return run


@pytest.mark.long
def test_fifty_tasks_are_prepared_and_the_second_time_there_is_nothing_to_do(
    build: Build, tmp_path: Path, mark: str
) -> None:
    for number in range(50):
        image_task(tmp_path / f"t{number:02}", mark, "COPY a /app/a", name=str(number % 5))
    status, said, errors = build(tmp_path, "-n", 3)
    assert (status, errors) == (0, "")
    assert [one["how"] for one in said["images"]] == ["built"] * 5
    assert {len(one["tasks"]) for one in said["images"]} == {10}
    client = engine()
    try:
        for number in range(5):
            name = TaskFolder.load(tmp_path / f"t{number:02}").image
            assert client.images.get(name).labels["megaflow-image"] == "build"
            assert name is not None
            assert name.startswith(f"{REPOSITORY}:")
    finally:
        client.close()
    status, said, _ = build(tmp_path)
    assert (status, {one["how"] for one in said["images"]}) == (0, {"there"})


def test_what_goes_wrong_is_told_by_task(build: Build, tmp_path: Path, mark: str) -> None:
    image_task(tmp_path / "step", mark, "RUN echo said; exit 3")
    image_task(tmp_path / "slow", mark, "RUN sleep 600", seconds=2)
    write_task(tmp_path / "wrong", "[agent]\nx = 1\n")
    missing = {"environment/Dockerfile": "FROM megaflow-test/nowhere:none\n"}
    write_task(tmp_path / "base", "version = '1'\n", files=missing)
    image_task(tmp_path / "good", mark)
    status, said, errors = build(tmp_path)
    assert (status, said["ok"]) == (1, False)
    how = {one["tasks"][0]: one for one in said["images"]}
    assert {name: one["how"] for name, one in how.items()} == {
        "step": "failed",
        "slow": "failed",
        "base": "failed",
        "good": "built",
    }
    assert "returned a non-zero code: 3" in how["step"]["error"]
    assert "\nsaid" in how["step"]["error"]
    assert "not built within 2 s (environment.build_timeout_sec)" in how["slow"]["error"]
    assert "cannot be built" in how["base"]["error"]
    assert "wrong/task.toml:2: unknown key agent.x" in errors
    assert nothing_runs(mark)


async def test_a_dockerfile_cannot_have_what_is_built_taken_for_ours(
    tmp_path: Path, mark: str
) -> None:
    """Neither its image, nor the images of its steps."""
    forged = {
        "megaflow-image": "commit",
        "megaflow-id": "b",
        "megaflow-profile": "strict",
        "megaflow-disk": "null",
        "megaflow.run": "1",
        "megaflow-labels": '{"run": "1"}',
    }
    async with docker_backend() as backend:
        forged["megaflow-scope"] = backend.scope
        labels = " ".join(f"{name}={shlex.quote(value)}" for name, value in forged.items())
        image_task(tmp_path, mark, f"LABEL {labels}")
        await built(tmp_path)
        client = engine()
        try:
            assert await backend.images({"run": "1"}) == []
            labels = client.images.get(TaskFolder.load(tmp_path).image).labels
            assert (labels["megaflow-scope"], labels["megaflow-image"]) == ("", "build")
        finally:
            client.close()


# What limits a step, on either version of control groups, and whether it has an interface beside the loopback.
LIMITS = """RUN cd /sys/fs/cgroup; cat memory.max || cat memory/memory.limit_in_bytes; \
    cat cpu.max || cat cpu/cpu.cfs_quota_us; ulimit -f; ls /sys/class/net; false"""


async def test_the_steps_of_a_build_have_the_limits_of_the_profile(
    tmp_path: Path, mark: str
) -> None:
    image_task(tmp_path, mark, LIMITS)
    with pytest.raises(FailedPrecondition) as failed:
        await built(tmp_path, profile="strict", build_network="none")
    said = failed.value.message.splitlines()
    assert {str(1 << 30), "lo"} <= set(said)
    assert {"100000", "100000 100000"} & set(said)
    assert {str((4 << 30) // 512), str((4 << 30) // 1024)} & set(said)  # blocks of either size
    assert not any(line.startswith("eth") for line in said)


async def test_a_step_that_is_killed_says_what_it_may_have_lacked(
    tmp_path: Path, mark: str
) -> None:
    image_task(tmp_path, mark, "RUN sh -c 'kill -9 $$'; exit $?")
    with pytest.raises(FailedPrecondition, match=r"more memory than the 1\.0 GiB of the profile"):
        await built(tmp_path, profile="strict", build_network="none")


async def built(task_folder: Path, **options: Any) -> None:
    from megaflow_server.backends.docker.building import DockerBuilds
    from megaflow_server.backends.docker.options import DockerOptions

    task = TaskFolder.load(task_folder)
    assert task.image is not None
    assert task.context is not None
    builds = DockerBuilds(DockerOptions(**options))
    try:
        with task.context.packed() as packed:
            await builds.build(task.image, packed, timeout=60)
    finally:
        builds.close()


def nothing_runs(mark: str) -> bool:
    """Whether the containers of builds that were given up are gone soon."""
    client, deadline = engine(), time.monotonic() + 30
    try:
        while client.containers.list(all=True, filters={"label": f"test={mark}"}):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True
    finally:
        client.close()
