from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from docker_rig import busybox, clear, docker_backend, engine, new_scope
from megaflow.errors import FailedPrecondition, NotFound
from megaflow.sandbox_proxy import SandboxProxy
from megaflow.task_folders import TaskFolder
from megaflow_envs.shipped import terminal_task
from megaflow_server.images import Builder, plan
from megaflow_server.pool import Pools
from megaflow_server.requested import template_of
from megaflow_server.sandbox.proxy import Door
from sandbox_host import SandboxHost
from task_rig import outcome, solve, submitted, terminal, write_task

pytestmark = pytest.mark.requires("docker")

Container = Callable[..., SandboxProxy]

OFFLINE = "[environment]\nallow_internet = false\n"


@pytest.fixture
def container(host: SandboxHost) -> Iterator[Container]:
    scope = new_scope()
    made: list[SandboxProxy] = []

    def make(**fields: object) -> SandboxProxy:
        made.append(host.make("container", scope=scope, **{"profile": "standard", **fields}))
        return made[-1]

    yield make
    for one in made:
        host.destroy(one)

    async def clean() -> None:
        async with docker_backend(scope) as backend:
            await clear(backend)

    asyncio.run(clean())


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """Of a task whose Dockerfile makes a user and a folder of its own, and brings a file."""
    dockerfile = (
        f"FROM {busybox()}\nWORKDIR /work\nCOPY hint /work/hint\n"
        "RUN chown 1000 /work && echo made >/etc/made\n"
    )
    settings = '[agent]\nuser = "user"\n[verifier]\nuser = "root"\n'
    test = (
        "[ $(id -u) = 0 ] && [ -f /etc/made ] || exit 1\n"
        'if [ "$(cat /work/answer)" = 42 ]; then echo 1; else echo 0; fi >/logs/verifier/reward.txt\n'
    )
    files = {"environment/Dockerfile": dockerfile, "environment/hint": "42\n"}
    task = write_task(tmp_path / "task", settings, test, files)
    with built(task) as name:
        yield name


@contextmanager
def built(task: Path) -> Iterator[str]:
    """The image of a task, which is removed again."""
    from megaflow_server.backends.docker.building import DockerBuilds
    from megaflow_server.backends.docker.options import DockerOptions

    async def build() -> None:
        engine = DockerBuilds(DockerOptions(build_network="none"))
        try:
            (outcome,) = await Builder(engine).have_all(plan([task])[0])
            assert outcome.error is None, outcome.error
        finally:
            engine.close()

    asyncio.run(build())
    name = TaskFolder.load(task).image
    assert name is not None
    client = engine()
    try:
        yield name
    finally:
        client.images.remove(name, force=True)
        client.close()


@pytest.mark.long
def test_a_task_with_an_image_and_users_of_its_own(
    container: Container, image: str, tmp_path: Path
) -> None:
    env = terminal(tmp_path / "task", container(image=image))
    assert outcome(env) == 0.0
    env.reset()
    assert env.step("id -u; pwd; cat hint; echo made-up >/etc/made")[0].splitlines()[:3] == [
        "1000",
        "/work",
        "42",
    ]
    env.step("cp hint answer")
    assert submitted(env) == 1.0
    # Each episode is a new container of what the first one began with.
    assert outcome(env) == 0.0
    cheats = (
        "mkdir -p /logs/verifier /tests; echo 1 >/logs/verifier/reward.txt",
        "echo 'echo 1 >/logs/verifier/reward.txt' >/tests/test.sh",
        "(while :; do echo 1 >/logs/verifier/reward.txt; done) >/dev/null 2>&1 &",
    )
    assert outcome(env, *cheats) == 0.0


@pytest.mark.long
def test_a_task_that_needs_no_image_in_one(container: Container) -> None:
    for user in (None, "1000"):
        env = terminal("megaflow:find-copies", container(user=user))
        for _ in range(2):
            assert outcome(env) == 0.0
            env.reset()
            script = (terminal_task("megaflow:find-copies") / "solution" / "solve.sh").read_text()
            said = solve(env, script)
            assert submitted(env) == 1.0, said


def test_a_sandbox_whose_user_may_make_nothing_says_so_before_the_agent_begins(
    container: Container,
) -> None:
    env = terminal("megaflow:find-copies", container(profile="strict"))
    with pytest.raises(FailedPrecondition, match='profile = "standard"'):
        env.reset()


@pytest.mark.long
def test_strict_is_enough_for_an_image_whose_user_is_root(tmp_path: Path) -> None:
    """Its folders are made from outside, and what it brings to where commands begin is its new user's."""
    files = {
        "environment/Dockerfile": f"FROM {busybox()}\nWORKDIR /app\nCOPY hint /app/of/hint\n",
        "environment/hint": "41\n",
    }
    task = write_task(tmp_path / "task", OFFLINE, files=files)
    with built(task):
        asyncio.run(_strictly(task, tmp_path))


async def _strictly(task: Path, folder: Path) -> None:
    template = template_of(TaskFolder.load(task).request(), {}, profile_of=lambda _: "strict")
    async with docker_backend() as backend:
        pools = Pools(lambda _: backend, run="1" * 16, folder=folder / "pools")
        try:
            leased = await pools.lease(template, owner="me", session="s")
            door = Door(leased.sandbox, folder)
            await door.open()
            with closing(door.proxy()) as sandbox:
                await asyncio.to_thread(_episodes, task, sandbox)
            await door.close()
            await leased.release(dirty=True)
        finally:
            await pools.stop()


def _episodes(task: Path, sandbox: SandboxProxy) -> None:
    env = terminal(task, sandbox)
    assert outcome(env, "echo 1 >/logs/verifier/reward.txt; echo 42 >of/hint") == 0.0
    env.reset()
    said = env.step("id -u; pwd; ls -ln of/hint; ls -ldn /tests /etc /; echo 42 >/etc/x")[0]
    assert said.splitlines()[:2] == ["65534", "/app"]
    owners = {line.split()[-1]: line.split()[2] for line in said.splitlines()[2:6]}
    assert owners == {"of/hint": "65534", "/tests": "65534", "/etc": "0", "/": "0"}
    assert "denied" in said
    env.step("sed s/1/2/ of/hint >answer && rm -r of")
    assert submitted(env) == 1.0
    # The reference solution has a folder, too.
    env.reset()
    *solving, submit = env.solution()
    for command in solving:
        env.step(command)
    assert env.step(submit)[1] == 1.0
    env.close()


def test_a_folder_that_is_too_large_to_be_handed_over_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "environment/Dockerfile": f"FROM {busybox()}\nWORKDIR /app\nCOPY large /app/large\n",
        "environment/large": "x" * 100_000,
    }
    task = write_task(tmp_path / "task", OFFLINE, files=files)
    monkeypatch.setattr("megaflow_server.pool.folders._MOST", 50_000)
    with (
        built(task),
        pytest.raises(FailedPrecondition, match=r'/app of its image .*profile = "standard"'),
    ):
        asyncio.run(_strictly(task, tmp_path))


async def test_an_image_that_was_not_built_says_how_it_is() -> None:
    async with docker_backend() as backend:
        with pytest.raises(NotFound, match="megaflow images build TASKS"):
            await backend.prepare("megaflow-task:0123")
