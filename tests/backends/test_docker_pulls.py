"""Images that are not here yet: what a registry says on the way, and what comes of it when it stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from megaflow.task_folders.context import REPOSITORY
from megaflow_server.backends import InstanceSpec
from process_scripts import until
from scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from megaflow_server.backends.docker.backend import DockerBackend

pytest.importorskip("docker")

DIGEST = "sha256:" + "0a" * 32


def layers(name: str) -> Iterator[Mapping[str, Any]]:
    yield {"status": f"Pulling from {name}"}
    for done in (10, 40):
        yield {
            "status": "Downloading",
            "id": "a",
            "progressDetail": {"current": done, "total": 40},
        }
    yield {"status": "Pull complete", "id": "a"}


@asynccontextmanager
async def backend_of(engine: ScriptedEngine, **options: Any) -> AsyncIterator[DockerBackend]:
    from megaflow_server.backends.docker.backend import DockerBackend
    from megaflow_server.backends.docker.options import DockerOptions

    backend = DockerBackend(DockerOptions(address=f"unix://{engine.path}", **options))
    try:
        yield backend
    finally:
        await backend.close()


async def test_a_pull_tells_how_far_it_is(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    with ScriptedEngine(tmp_path, layers) as engine:
        async with backend_of(engine) as backend:
            await backend.prepare("team/image", lambda *step: said.append(step))
            assert [step[1:] for step in said] == [(0, 0), (10, 40), (40, 40), (40, 40)]
            assert said[0][0] == "Pulling from team/image:latest"
            await backend.prepare("team/image", lambda *step: said.append(step))
        assert (len(said), engine.pulls) == (4, ["team/image:latest"])


async def test_a_pull_is_told_in_the_log_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("megaflow_server.backends.docker.pulling._REPORT_SECONDS", 0.0)
    caplog.set_level("INFO", "megaflow_server.backends.docker.pulling")
    with ScriptedEngine(tmp_path, layers) as engine:
        async with backend_of(engine, mirror="mirror.example") as backend:
            await backend.prepare("team/image")
    told = caplog.messages
    assert told[0] == "image team/image: fetching mirror.example/team/image:latest"
    assert told[1:4] == [f"image team/image: {so_far} B of 40 B so far" for so_far in (10, 40, 40)]
    assert told[4].startswith("image team/image: here after ")


async def test_what_was_built_here_needs_no_pin(tmp_path: Path) -> None:
    with ScriptedEngine(tmp_path, layers) as engine:
        async with backend_of(engine, require_digest=True) as backend:
            with pytest.raises(NotFound, match="megaflow images build"):
                await backend.prepare(f"{REPOSITORY}:{'0a' * 32}")
            with pytest.raises(FailedPrecondition, match="is not pinned"):
                await backend.prepare("python:3.11")
    assert engine.pulls == []


async def test_calls_for_one_image_share_one_pull(tmp_path: Path) -> None:
    go = threading.Event()

    def slow(name: str) -> Iterator[Mapping[str, Any]]:
        yield from layers(name)
        assert go.wait(20)

    with ScriptedEngine(tmp_path, slow) as engine:
        async with backend_of(engine) as backend:
            calls = [asyncio.ensure_future(backend.prepare("a/b:1")) for _ in range(5)]
            await until(lambda: bool(engine.pulls))
            calls[0].cancel()  # which takes the image from none of the others
            go.set()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert outcomes[1:] == [None] * 4
        assert engine.pulls == ["a/b:1"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("manifest for a/b:1 not found: manifest unknown", NotFound),
        ("pull access denied for a/b", NotFound),
        ("toomanyrequests: pull rate limit", ResourceExhausted),
        ("no space left on device", ResourceExhausted),
        ("dial tcp: lookup registry.example: no such host", Unavailable),
    ],
)
async def test_what_a_registry_refuses_reaches_everybody_who_waits(
    tmp_path: Path, said: str, expected: type[MegaflowError]
) -> None:
    def refuse(name: str) -> Iterator[Mapping[str, Any]]:
        yield {"status": f"Pulling from {name}"}
        yield {"error": said, "errorDetail": {"message": said}}

    with ScriptedEngine(tmp_path, refuse) as engine:
        async with backend_of(engine) as backend:
            outcomes = await asyncio.gather(
                *(backend.prepare("a/b:1") for _ in range(2)), return_exceptions=True
            )
    assert [type(outcome) for outcome in outcomes] == [expected, expected]
    assert "a/b:1" in str(outcomes[0])


async def test_a_registry_that_stops_sending_is_unavailable(tmp_path: Path) -> None:
    stop = threading.Event()

    def stall(name: str) -> Iterator[Mapping[str, Any]]:
        yield from layers(name)
        stop.wait(20)

    with ScriptedEngine(tmp_path, stall) as engine:
        async with backend_of(engine, pull_timeout=0.3) as backend:
            try:
                async with asyncio.timeout(10):
                    with pytest.raises(Unavailable, match=r"nothing came .* for 0\.3 s"):
                        await backend.prepare("a/b:1")
            finally:
                stop.set()


async def test_a_mirror_is_asked_instead_and_the_image_keeps_its_name(tmp_path: Path) -> None:
    with ScriptedEngine(tmp_path, layers) as engine:
        async with backend_of(engine, mirror="mirror.example:5000") as backend:
            for _ in range(2):
                await backend.prepare("python:3.11")
            await backend.prepare(f"registry.example/team/image@{DIGEST}")
    assert engine.pulls == [
        "mirror.example:5000/library/python:3.11",
        f"mirror.example:5000/team/image@{DIGEST}",
    ]


async def test_where_images_must_be_pinned_others_are_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    with ScriptedEngine(tmp_path, layers) as engine:
        async with backend_of(engine, require_digest=True) as backend:
            with pytest.raises(
                FailedPrecondition, match=r"'python:3\.11' is not pinned.*python@sha"
            ):
                await backend.prepare("python:3.11")
            await backend.prepare(f"python@{DIGEST}")
    assert engine.pulls == [f"python@{DIGEST}"]


@pytest.mark.parametrize(("image", "expected"), [("No Name", InvalidArgument), (DIGEST, NotFound)])
async def test_what_no_registry_can_have_is_not_asked_for(
    tmp_path: Path, image: str, expected: type[MegaflowError]
) -> None:
    with ScriptedEngine(tmp_path, layers) as engine:
        async with backend_of(engine) as backend:
            with pytest.raises(expected):
                await backend.prepare(image)
    assert engine.pulls == []


async def test_an_engine_that_tells_no_events_has_nothing_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megaflow_server.backends.docker.watch._READY_SECONDS", 0.2)
    with ScriptedEngine(tmp_path, layers) as engine:
        async with backend_of(engine) as backend:
            with pytest.raises(Unavailable, match="tells no events"):
                await backend.create(InstanceSpec("a", ("true",), tmp_path / "a.log", image="a"))
