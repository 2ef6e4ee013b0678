"""Images that are built when they are asked for: once, and by whoever may."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from megaflow.errors import FailedPrecondition, NotFound
from megaflow.sandbox_request import SandboxRequest
from megaflow.task_folders import BuildContext, TaskFolder
from megaflow_server.backends.base import Progress
from megaflow_server.images import OnDemand
from task_rig import write_task


class Engine:
    """Builds when it is told to."""

    def __init__(self) -> None:
        self.images: set[str] = set()
        self.built: list[tuple[str, float]] = []
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.closed = False

    async def has(self, image: str) -> bool:
        return image in self.images

    async def prepare(self, image: str, progress: Progress | None = None) -> None:
        raise AssertionError(f"{image} is built, not fetched")

    async def build(
        self,
        image: str,
        context: IO[bytes],
        *,
        timeout: float,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        assert b"Dockerfile" in context.read()
        assert progress is not None
        progress("Step 1/1 : FROM x")
        self.built.append((image, timeout))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.images.add(image)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def request_of_task(tmp_path: Path) -> SandboxRequest:
    settings = "[environment]\nbuild_timeout_sec = 77\n"
    files = {"environment/Dockerfile": "FROM x\n"}
    return TaskFolder.load(write_task(tmp_path / "task", settings, files=files)).request()


async def test_many_who_ask_wait_for_one_build(
    engine: Engine, request_of_task: SandboxRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "megaflow_server.images")
    images = OnDemand(lambda: engine)
    await asyncio.gather(*(images.have(request_of_task) for _ in range(40)))
    await images.have(request_of_task)
    assert engine.built == [(request_of_task.image, 77.0)]
    said = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert said[:2] == ["it is not there, and is built", "Step 1/1 : FROM x"]
    assert said[2].startswith("built in ")
    await images.close()
    assert engine.closed


async def test_a_build_goes_on_for_whoever_asks_next(
    engine: Engine, request_of_task: SandboxRequest
) -> None:
    images = OnDemand(lambda: engine)
    engine.go.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(images.have(request_of_task), 0.05)
    assert images.step(request_of_task) == "Step 1/1 : FROM x"
    again = asyncio.create_task(images.have(request_of_task))
    await asyncio.sleep(0.02)
    engine.go.set()
    await again
    assert len(engine.built) == 1
    assert images.step(request_of_task) is None
    await images.close()


async def test_what_goes_wrong_is_told_to_each_and_tried_again(
    engine: Engine, request_of_task: SandboxRequest
) -> None:
    images = OnDemand(lambda: engine)
    engine.error = FailedPrecondition("RUN false")
    said = await asyncio.gather(
        *(images.have(request_of_task) for _ in range(3)), return_exceptions=True
    )
    assert [str(one) for one in said] == ["RUN false"] * 3
    assert len(set(map(id, said))) == 3
    engine.error = None
    await images.have(request_of_task)
    await images.close()


async def test_a_folder_that_is_another_by_now_is_not_built(
    engine: Engine, request_of_task: SandboxRequest
) -> None:
    images = OnDemand(lambda: engine)
    _change(request_of_task, "FROM y\n")
    with pytest.raises(FailedPrecondition, match="has changed since"):
        await images.have(request_of_task)
    _change(request_of_task, None)
    with pytest.raises(NotFound, match="Dockerfile: no such file"):
        await images.have(request_of_task)
    assert engine.built == []
    await images.close()


def _change(request: SandboxRequest, text: str | None) -> None:
    assert request.context is not None
    dockerfile = Path(request.context, "Dockerfile")
    dockerfile.unlink() if text is None else dockerfile.write_text(text)


async def test_what_changes_while_it_is_packed_is_not_built_under_its_old_name(
    engine: Engine, request_of_task: SandboxRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = BuildContext.packed

    def changed(context: BuildContext) -> IO[bytes]:
        _change(request_of_task, "FROM y\n")
        return packed(context)

    monkeypatch.setattr(BuildContext, "packed", changed)
    images = OnDemand(lambda: engine)
    with pytest.raises(FailedPrecondition, match="has changed since it was read"):
        await images.have(request_of_task)
    assert engine.built == []
    await images.close()


async def test_nobody_who_asks_has_the_server_build_for_hours(
    engine: Engine, request_of_task: SandboxRequest
) -> None:
    images = OnDemand(lambda: engine)
    with pytest.raises(FailedPrecondition, match=r"build_timeout_sec=3601: .* 3600 s at most"):
        await images.have(replace(request_of_task, build_timeout=3601.0))
    await images.have(replace(request_of_task, build_timeout=3600.0))
    await images.close()


async def test_what_is_not_built_here_is_left_alone(
    engine: Engine, request_of_task: SandboxRequest
) -> None:
    """Where nothing may be built, what has no image of its own, and what is fetched."""
    await OnDemand(None).have(request_of_task)
    images = OnDemand(lambda: engine)
    await images.have(SandboxRequest())
    await images.have(SandboxRequest(image="python:3.11", context=request_of_task.context))
    assert engine.built == []
    await images.close()
    assert not engine.closed  # it never was opened
