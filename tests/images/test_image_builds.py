from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from megaflow.errors import FailedPrecondition, InvalidArgument, MegaflowError, NotFound
from megaflow_server.backends.base import Progress
from megaflow_server.images import Builder, Outcome, plan
from task_rig import SETTINGS, write_task

OWN = "version = '1'\n"


def built_from(folder: Path, content: str) -> Path:
    """A task with an image of its own content."""
    files = {"environment/Dockerfile": "FROM x\nCOPY a /a\n", "environment/a": content}
    return write_task(folder, OWN, files=files)


# Seconds until a test gives up.
PATIENCE = 30.0


class Engine:
    """One that takes a few turns of the event loop for an image, and knows how many it is at.

    Args:
        crowd: it makes the first images only once it is at so many.
    """

    def __init__(self, crowd: int = 1) -> None:
        self.crowd = crowd
        self.crowded = asyncio.Event()
        self.images: set[str] = set()
        self.made: list[str] = []
        self.broken: dict[str, MegaflowError] = {}
        self.now = self.most = 0

    async def has(self, image: str) -> bool:
        return image in self.images

    async def prepare(self, image: str, progress: Progress | None = None) -> None:
        if progress is not None:
            progress("Downloading", 1 << 20, 4 << 20)
        await self._make(image)

    async def build(
        self,
        image: str,
        context: IO[bytes],
        *,
        timeout: float,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        assert b"Dockerfile" in context.read()
        assert timeout == 600
        if progress is not None:
            progress("Step 1/2 : FROM x")
        await self._make(image)

    async def _make(self, image: str) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.most >= self.crowd:
            self.crowded.set()
        async with asyncio.timeout(PATIENCE):
            await self.crowded.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        self.now -= 1
        if image in self.broken:
            raise self.broken[image]
        self.made.append(image)
        self.images.add(image)


def fifty(folder: Path) -> Path:
    """Fifty tasks, of which every two have the same image."""
    for number in range(50):
        built_from(folder / f"t{number:02}", str(number // 2))
    return folder


async def test_fifty_tasks_have_their_images_each_built_once_several_at_a_time(
    tmp_path: Path,
) -> None:
    engine, said = Engine(crowd=4), list[tuple[str, str]]()
    wanted, wrong = plan([fifty(tmp_path)])
    assert (len(wanted), wrong) == (25, [])
    builder = Builder(engine, at_once=4)
    done: list[Outcome] = []
    outcomes = await builder.have_all(wanted, lambda *what: said.append(what), done.append)
    assert [one.how for one in outcomes] == ["built"] * 25
    assert all(len(one.tasks) == 2 for one in outcomes)
    assert (engine.most, sorted(engine.made)) == (4, sorted(one.image for one in wanted))
    assert {image for image, _ in said} == set(engine.made)
    assert sorted(done, key=id) == sorted(outcomes, key=id)
    again = await builder.have_all(wanted)
    assert {one.how for one in again} == {"there"}
    assert len(engine.made) == 25


async def test_who_asks_for_one_that_is_under_way_waits_for_the_same(tmp_path: Path) -> None:
    engine = Engine()
    wanted, _ = plan([built_from(tmp_path / "t", "1")])
    builder = Builder(engine)
    first = asyncio.ensure_future(builder.have(wanted[0]))
    second = asyncio.ensure_future(builder.have(wanted[0]))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).how == "built"
    assert len(engine.made) == 1


async def test_one_that_fails_is_told_and_the_others_are_built(tmp_path: Path) -> None:
    engine = Engine()
    for name in "abc":
        built_from(tmp_path / name, name)
    wanted, _ = plan([tmp_path])
    engine.broken[wanted[1].image] = FailedPrecondition("RUN false")
    outcomes = await Builder(engine, at_once=1).have_all(wanted)
    assert [one.how for one in outcomes] == ["built", "failed", "built"]
    assert outcomes[1].error is engine.broken[wanted[1].image]
    engine.broken.clear()
    assert (await Builder(engine).have(wanted[1])).how == "built"


async def test_images_with_a_name_are_fetched(tmp_path: Path) -> None:
    write_task(tmp_path / "a", '[environment]\ndocker_image = "some/image:1"\n')
    write_task(tmp_path / "b", '[environment]\ndocker_image = "some/image:1"\n')
    write_task(tmp_path / "c", SETTINGS)
    own = SETTINGS + '[verifier.environment]\ndocker_image = "judge:1"\n'
    write_task(tmp_path / "d", own)
    wanted, _ = plan([tmp_path])
    assert [(one.image, one.tasks) for one in wanted] == [
        ("some/image:1", ["a", "b"]),
        ("judge:1", ["d"]),
    ]
    said: list[str] = []
    outcomes = await Builder(Engine()).have_all(wanted, lambda _, what: said.append(what))
    assert [one.how for one in outcomes] == ["fetched", "fetched"]
    assert said[0] == "Downloading 1.0 MiB of 4.0 MiB"


def test_a_verifiers_own_dockerfile_is_an_image_too(tmp_path: Path) -> None:
    settings = SETTINGS + '[verifier]\nenvironment_mode = "separate"\n'
    write_task(tmp_path, settings, files={"tests/Dockerfile": "FROM x\n"})
    wanted, _ = plan([tmp_path])
    assert [one.context.folder.name for one in wanted if one.context] == ["tests"]


def test_tasks_that_cannot_be_read_are_told_and_left_aside(tmp_path: Path) -> None:
    built_from(tmp_path / "good", "1")
    write_task(tmp_path / "bad", "[agent]\nx = 1\n")
    wanted, wrong = plan([tmp_path])
    assert (len(wanted), len(wrong)) == (1, 1)
    assert "bad/task.toml:2: unknown key agent.x" in str(wrong[0])
    with pytest.raises(NotFound, match="no task there"):
        plan([tmp_path / "nowhere"])
    with pytest.raises(InvalidArgument, match="at_once=0"):
        Builder(Engine(), at_once=0)
