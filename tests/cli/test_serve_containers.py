"""`megaflow serve` with a Docker Engine: its table of megaflow.toml, its image for workers, what it prints."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import docker_images
import megaflow
from commands import Command, Refused, Serve
from docker_rig import busybox, engine, new_scope
from leftovers import Place
from megaflow_server.backends.docker.isolation import Engine
from megaflow_server.backends.docker.options import DEFAULT_ADDRESS
from megaflow_server.backends.docker.survey import lacks_of, reuse_of
from megaflow_server.config import load
from megaflow_server.requested import PROFILES, Most


@pytest.fixture
def scope() -> Iterator[str]:
    """A scope of which nothing may be left."""
    scope = new_scope()
    yield scope
    client = engine()
    left = client.containers.list(all=True, filters={"name": scope})
    for container in left:
        container.remove(force=True)
    client.close()
    assert left == []


@pytest.mark.long
@pytest.mark.requires("docker")
def test_workers_are_containers_and_the_start_says_of_which_engine(
    serve: Serve, place: Place, tmp_path: Path, scope: str
) -> None:
    config = tmp_path / "megaflow.toml"
    config.write_text(f'[docker]\nscope = "{scope}"\n')
    options = ("--backend", "docker", "--worker-image", docker_images.worker())
    served = serve("--listen", "127.0.0.1:0", "--workers", "1", "--config", str(config), *options)
    assert served.lines[0].endswith("(1 worker, backend docker). Ctrl-C ends it.\n")
    assert served.process.stdout is not None
    line = served.process.stdout.readline()
    assert line.startswith("docker: Docker Engine ")
    assert "profile strict unless a template names another" in line
    with closing(megaflow.make("CartPole-v1", server=served.addresses[0])) as env:
        env.reset(seed=0)
        env.step(0)
    assert served.end(signal.SIGTERM) == 0
    place.assert_nothing_left()


@pytest.mark.requires("docker")
def test_a_template_in_containers_says_so_and_workers_stay_processes(
    serve: Serve, place: Place, tmp_path: Path, scope: str
) -> None:
    config = tmp_path / "megaflow.toml"
    config.write_text(
        f'[docker]\nscope = "{scope}"\nprofile = "standard"\nmirror = "registry.example"\n'
        f'[templates.shell]\nbackend = "docker"\nimage = "{busybox()}"\nnetwork = {{ setup = "public" }}\n'
    )
    served = serve("--listen", "127.0.0.1:0", "--workers", "1", "--config", str(config))
    assert "backend process" in served.lines[0]
    assert served.process.stdout is not None
    line = served.process.stdout.readline()
    assert "profile standard unless a template names another, images from registry.example" in line
    assert served.end(signal.SIGTERM) == 0
    place.assert_nothing_left()


def test_a_worker_in_a_container_needs_an_image(refused: Refused) -> None:
    said = refused("--backend", "docker")
    assert "name one with --worker-image (server/deploy/Dockerfile makes one)" in said


def test_an_engine_that_is_not_there_is_named(refused: Refused, tmp_path: Path) -> None:
    config = tmp_path / "megaflow.toml"
    config.write_text('[docker]\naddress = "unix:///no/engine.sock"\n')
    said = refused("--config", str(config), "--backend", "docker", "--worker-image", "image")
    assert "no Docker Engine answers at unix:///no/engine.sock" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mirrors = "a"', "docker.mirrors: unknown key; did you mean docker.mirror?"),
        ('profile = "lax"', "docker.profile = 'lax'"),
        ("call_timeout = nan", "docker.call_timeout = nan"),
        ("call_timeout = 0", "docker.call_timeout = 0"),
        ('scope = "A B"', "scope='A B': takes 1 to 32 lower-case letters"),
    ],
)
def test_what_the_table_cannot_say_is_named(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "megaflow.toml"
    config.write_text(f"[docker]\n{text}\n")
    with pytest.raises(megaflow.InvalidArgument) as refused:
        load(config, {})
    assert message in refused.value.message
    assert str(config) in refused.value.message


def test_the_table_says_what_the_engine_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    config = tmp_path / "megaflow.toml"
    config.write_text(
        '[docker]\nmirror = "registry.example/all"\nrequire_digest = true\npull_timeout = 5.5\nprofile = "trusted"\n'
    )
    options = load(config, {}).docker.options()
    assert (options.address, options.scope) == (DEFAULT_ADDRESS, "megaflow")
    assert (options.mirror, options.require_digest) == ("registry.example/all", True)
    assert (options.pull_timeout, options.call_timeout) == (5.5, 60.0)
    assert options.profile == "trusted"


def test_the_table_says_what_requests_without_a_template_get(tmp_path: Path) -> None:
    config = tmp_path / "megaflow.toml"
    config.write_text('[sandboxes]\nmemory = "2Gi"\nnetwork = ["a.org"]\n')
    table = load(config, {}).sandboxes
    assert table.most(PROFILES) == Most(memory=2 << 30, network=("a.org",))
    assert table.most(Most(cpu=4, memory=1)) == Most(4, 2 << 30, network=("a.org",))
    assert load(None, {}).sandboxes.most(PROFILES) == PROFILES
    config.write_text("[sandboxes]\ncpu = 0\n")
    with pytest.raises(megaflow.InvalidArgument, match=r"sandboxes.cpu = 0"):
        load(config, {})


@pytest.mark.requires("docker")
def test_the_doctor_says_what_the_engine_gives(command: Command) -> None:
    done = command("doctor", "--server", "inline", "--json")
    found = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert found["docker"]["detail"].startswith("Docker Engine ")
    assert "disk limits are" in found["docker"]["detail"]
    assert "; pools m" in found["docker"]["detail"]


def test_the_doctor_runs_a_command_in_a_sandbox_and_misses_no_engine(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/engine.sock")
    done = command("doctor", "--server", "inline", "--json")
    assert done.status == 0
    found = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert found["sandboxes"]["status"] in ("ok", "warning")
    assert found["docker"]["status"] == "ok"
    assert "needed for" in found["docker"]["detail"]


def test_what_an_engine_lacks_is_said_with_what_to_do() -> None:
    info = {
        "MemoryLimit": True,
        "CpuCfsQuota": True,
        "SecurityOptions": ["name=seccomp,profile=unconfined"],
    }
    lacks = lacks_of(info, Engine.of(info, Path("/engine.sock")))
    assert [text.partition(",")[0] for text in lacks] == [
        "cannot limit swap",
        "cannot limit processes",
        "runs without seccomp",
    ]
    assert all(": " in text for text in lacks)


def test_whether_containers_may_be_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megaflow_server.backends.docker.layers.can_listen", lambda: True)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    info = {"Driver": "overlay2", "DockerRootDir": str(tmp_path)}
    assert reuse_of(info) == "pools may use containers again"
    for wrong in ({"Driver": "vfs"}, {"DockerRootDir": str(tmp_path / "absent")}):
        assert "takes a server that is root, and overlay2" in reuse_of({**info, **wrong})
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "make each container anew" in reuse_of(info)
