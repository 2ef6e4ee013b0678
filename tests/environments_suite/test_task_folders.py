from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tracemalloc
from pathlib import Path

import gymnasium as gym
import pytest

from megaflow.errors import FailedPrecondition, InvalidArgument, MegaflowError, NotFound
from megaflow.task_folders import BuildContext, TaskFolder, find_tasks
from megaflow_envs.shipped import terminal_task, terminal_tasks
from megaflow_envs.terminal import TerminalEnv
from task_rig import SETTINGS, write_task

FULL = """
schema_version = "1.1"
artifacts = ["/app/out", { source = "/app/more" }]

[task]
name = "somebody/some-task"
keywords = ["x"]

[metadata]
anything = { at = "all" }

[metadata.megaflow]
evidence = ["/logs/verifier/ctrf.json"]

[environment]
build_timeout_sec = 100
docker_image = "some/image:1"
workdir = "/work"
cpus = 2
memory = "2G"
storage_mb = 10240
network_mode = "public"
env = { A = "1" }

[agent]
timeout_sec = 120.0
user = "agent"
network_mode = "allowlist"
allowed_hosts = ["packages.example", "*.example.com:443"]

[verifier]
timeout_sec = 60
user = 0
network_mode = "no-network"

[solution]
env = { B = "2" }
"""


def test_all_that_a_task_can_say(tmp_path: Path) -> None:
    task = TaskFolder.load(write_task(tmp_path / "t", FULL))
    request = task.request("big")
    assert (task.name, request.template) == ("somebody/some-task", "big")
    assert (request.image, request.directory) == ("some/image:1", "/work")
    assert (request.cpus, request.memory, request.disk) == (2.0, 2 << 30, 10240 << 20)
    assert request.network == {
        "setup": "public",
        "agent": ("packages.example", "*.example.com:443"),
        "verifier": "none",
    }
    assert request.user == {"agent": "agent", "verifier": "0"}
    assert (request.environ, request.evidence) == ({"A": "1"}, ("/logs/verifier/ctrf.json",))
    assert task.verifier_request() is None
    assert [artifact.source for artifact in task.settings.artifacts] == ["/app/out", "/app/more"]


def test_an_older_task(tmp_path: Path) -> None:
    settings = 'version = "1.0"\n[environment]\nallow_internet = false\nmemory_mb = 512\n'
    files = {"environment/Dockerfile": "FROM debian\n"}
    task = TaskFolder.load(write_task(tmp_path, settings, files=files))
    request = task.request()
    assert set(request.network.values()) == {"none"}
    assert request.memory == 512 << 20
    assert request.image is not None
    assert request.image.startswith("megaflow-task:")
    assert request.directory is None


def test_a_separate_verifier(tmp_path: Path) -> None:
    settings = (
        SETTINGS
        + '\n[verifier]\nuser = "judge"\n[verifier.environment]\ndocker_image = "judge:1"\n'
    )
    request = TaskFolder.load(write_task(tmp_path, settings)).verifier_request()
    assert request is not None
    assert (request.image, request.user) == ("judge:1", {"verifier": "judge"})
    env = TerminalEnv.sandboxes(str(tmp_path))
    assert (set(env), env["sandbox"].image) == ({"sandbox", "verifier_sandbox"}, None)


# What is wrong, and what is said of it: a file, its line, and the way out.
WRONG = {
    "toml": ("[agent]\ntimeout_sec = \n", r"task.toml:2: Invalid value"),
    "unfinished": ('[agent]\nuser = "x', r"task.toml:2: "),
    "unknown key": (
        SETTINGS + "[agent]\n\ntimout_sec = 3\n",
        r"task.toml:6: unknown key agent.timout_sec; did you mean 'timeout_sec'",
    ),
    "unknown table": (
        SETTINGS + "[agnet]\nx = 1\n",
        r"task.toml:4: unknown key agnet; did you mean 'agent'",
    ),
    "text for seconds": (
        SETTINGS + '[verifier]\ntimeout_sec = "60"\n',
        r"task.toml:5: verifier.timeout_sec = '60'",
    ),
    "nan": (
        SETTINGS + "[verifier]\ntimeout_sec = nan\n",
        r"task.toml:5: verifier.timeout_sec = nan",
    ),
    "no seconds": (SETTINGS + "[agent]\ntimeout_sec = 0\n", r"task.toml:5: agent.timeout_sec = 0"),
    "amount": (
        SETTINGS + '[environment]\nmemory = "lots"\n',
        r"task.toml:5: environment.memory = 'lots': give an amount",
    ),
    "two spellings": (
        SETTINGS + '[environment]\nmemory = "1G"\nmemory_mb = 5\n',
        r"task.toml:4: environment: memory_mb and memory",
    ),
    "workdir": (
        SETTINGS + '[environment]\nworkdir = "../x"\n',
        r"task.toml:5: environment.workdir = '../x': give an absolute",
    ),
    "evidence": (
        SETTINGS + 'evidence = ["/logs/../x"]\n',
        r"task.toml:4: metadata.megaflow.evidence.0 = '/logs/../x'",
    ),
    "artifact": ('artifacts = ["x"]\n' + SETTINGS, r"task.toml:1: artifacts"),
    "host": (
        SETTINGS + '[agent]\nnetwork_mode = "allowlist"\nallowed_hosts = ["https://x.org/a"]\n',
        r"task.toml:6: agent.allowed_hosts.0",
    ),
    "hosts without list": (
        SETTINGS + '[agent]\nallowed_hosts = ["x.org"]\n',
        r"task.toml:4: agent: .*allowlist",
    ),
    "mode": (
        SETTINGS + '[agent]\nnetwork_mode = "some"\n',
        r"task.toml:5: agent.network_mode = 'some'",
    ),
    "user": (SETTINGS + '[agent]\nuser = "a b"\n', r"task.toml:5: agent.user = 'a b'"),
    "shared and separate": (
        SETTINGS + '[verifier]\nenvironment_mode = "shared"\n[verifier.environment]\ncpus = 1\n',
        r"task.toml:4: verifier: .*separate",
    ),
    "image and none": (
        SETTINGS + '[environment]\ndocker_image = "x"\n',
        r"task.toml:3: needs_image = false",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_told_with_their_line(case: str, tmp_path: Path) -> None:
    settings, message = WRONG[case]
    with pytest.raises(InvalidArgument, match=message):
        TaskFolder.load(write_task(tmp_path, settings))


LACKING = {
    "gpus": "[environment]\ngpus = 1\n",
    "windows": '[environment]\nos = "windows"\n',
    "steps": '[[steps]]\nname = "one"\n',
    "mcp": '[environment]\nmcp_servers = [{ name = "x" }]\n',
    "collect": '[[verifier.collect]]\ncommand = "x"\n',
}


@pytest.mark.parametrize("case", LACKING)
def test_what_cannot_be_given_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"task.toml:\d+: "):
        TaskFolder.load(write_task(tmp_path, LACKING[case] + SETTINGS))


@pytest.mark.parametrize(
    "name", ["task.toml", "instruction.md", "tests/test.sh", "solution/solve.sh"]
)
def test_a_file_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    task = write_task(tmp_path)
    (task / name).unlink()
    with pytest.raises(NotFound, match=name):
        TaskFolder.load(task)


@pytest.mark.parametrize("name", ["task.toml", "instruction.md", "tests/test.sh"])
@pytest.mark.parametrize("content", [b"", b"ok = 1\n\xff\n", b"ok = 1\n\n\0"])
def test_a_file_that_is_no_text_is_named_with_its_line(
    name: str, content: bytes, tmp_path: Path
) -> None:
    task = write_task(tmp_path)
    (task / name).write_bytes(content)
    line = 1 if not content else 2 if b"\xff" in content else 3
    with pytest.raises(InvalidArgument, match=f"{name}:{line}: "):
        TaskFolder.load(task)


def test_scripts_with_the_line_ends_of_windows(tmp_path: Path) -> None:
    task = write_task(tmp_path, test="echo 1\necho 2\r\n")
    with pytest.raises(InvalidArgument, match=r"test.sh:2: the line ends with CR LF"):
        TaskFolder.load(task)


def test_no_folder_and_no_dockerfile(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        TaskFolder.load(tmp_path / "absent")
    with pytest.raises(NotFound, match="Dockerfile: no such file"):
        TaskFolder.load(write_task(tmp_path, "version = '1'\n"))
    compose = {"environment/docker-compose.yaml": "services: {}\n"}
    with pytest.raises(FailedPrecondition, match="one container"):
        TaskFolder.load(write_task(tmp_path, "version = '1'\n", files=compose))


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("RUN x\nFROM y\n", "Dockerfile:1: RUN comes before"),
        ("FROM y\nINSTALL x\n", "Dockerfile:2: 'INSTALL' is no instruction"),
        ("FROM y\n\nCOPY a ../b c /\n", "Dockerfile:3: COPY takes nothing from outside"),
        ("# only\nARG x\n", "Dockerfile:1: no FROM"),
        ("# escape=x\nFROM y\n", "Dockerfile:1: escape=x: takes"),
        ("FROM y\nRUN a \\\n\nINSTALL\nBUY x\n", "Dockerfile:5: 'BUY' is no instruction"),
    ],
)
def test_a_wrong_dockerfile(dockerfile: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=message):
        TaskFolder.load(
            write_task(tmp_path, "version = '1'\n", files={"environment/Dockerfile": dockerfile})
        )


def test_dockerfiles_with_continued_lines_and_texts(tmp_path: Path) -> None:
    dockerfile = "ARG v=1\nFROM x:$v AS y\nRUN a && \\\n  # why\n  b\nRUN <<END\nnot an instruction\nEND\nCOPY a b\n"
    files = {"environment/Dockerfile": dockerfile}
    assert TaskFolder.load(write_task(tmp_path, "version = '1'\n", files=files)).context


@pytest.mark.parametrize(
    "dockerfile",
    [
        "\ufeffFROM y\nRUN a\n",
        "# syntax=docker/dockerfile:1\n# Escape = `\nFROM y\nRUN a `\n  b\nCOPY a c:\\\nRUN b\n",
        "FROM y\nRUN a && \\\n\n  # why\n\n  b && \\  \n  c\nUSER me\n",
        "FROM y\nRUN a \\\n",
        # No directive any more.
        "FROM y\n# escape=`\nRUN a \\\n  b\n",
        "\n# escape=`\nFROM y\nRUN a \\\n  b\n",
    ],
)
def test_dockerfiles_that_engines_build(dockerfile: str, tmp_path: Path) -> None:
    files = {"environment/Dockerfile": dockerfile}
    assert TaskFolder.load(write_task(tmp_path, "version = '1'\n", files=files)).context


def test_a_large_context_is_not_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(32 << 20)
    tracemalloc.start()
    try:
        context = BuildContext(tmp_path)
        with context.packed() as packed:
            _, peak = tracemalloc.get_traced_memory()
            with tarfile.open(fileobj=packed) as archive:
                assert archive.getmember("large").size == 32 << 20
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_file_that_shrinks_while_it_is_packed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Dockerfile", "a"):
        (tmp_path / name).write_text("FROM x\n")
    context = BuildContext(tmp_path)
    status = os.fstat

    def larger(descriptor: int) -> os.stat_result:
        found = list(status(descriptor))
        found[stat.ST_SIZE] += 1
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", larger)
    with pytest.raises(FailedPrecondition, match="Dockerfile: it became shorter"):
        context.packed()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "../../secret/../secret", "up"])
@pytest.mark.parametrize(
    "place", ["tests/extra", "environment/deep/extra", "solution/extra", "extra"]
)
def test_links_that_leave_the_folder_are_refused(target: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    task = write_task(tmp_path / "tasks" / "t")
    link = task / place
    link.parent.mkdir(parents=True, exist_ok=True)
    if target == "up":  # a chain of two, of which the first stays inside
        os.symlink("../" * (len(Path(place).parts) + 1) + "secret", link.with_name("up"))
    if "secret" in target:
        target = "../" * (len(Path(place).parts) + 1) + "secret"
    os.symlink(target, link)
    with pytest.raises(InvalidArgument, match="leads out of"):
        TaskFolder.load(task)


def test_links_within_the_folder_and_what_is_no_file(tmp_path: Path) -> None:
    task = write_task(tmp_path / "t")
    os.symlink("test.sh", task / "tests" / "again.sh")
    os.symlink("../tests", task / "solution" / "tests")
    assert TaskFolder.load(task).name == "t"
    os.mkfifo(task / "tests" / "pipe")
    with pytest.raises(InvalidArgument, match="neither a file"):
        TaskFolder.load(task)


def test_an_image_is_named_by_what_is_in_its_folder(tmp_path: Path) -> None:
    files = {"environment/Dockerfile": "FROM x\n", "environment/a/b": "1"}

    def named(folder: Path) -> str:
        image = TaskFolder.load(folder).image
        assert image is not None
        return image

    one = write_task(tmp_path / "one", "version = '1'\n", files=files)
    first = named(one)
    two = shutil.copytree(one, tmp_path / "two")
    os.utime(two / "environment" / "a" / "b", (1, 1))
    (two / "instruction.md").write_text("something else\n")
    assert named(two) == first
    context = TaskFolder.load(one).context
    other = TaskFolder.load(two).context
    assert context is not None
    assert other is not None
    with context.packed() as packed, other.packed() as again:
        assert packed.read() == again.read()
    seen = {first}
    for change in (
        lambda: (two / "environment" / "a" / "b").write_text("2"),
        lambda: (two / "environment" / "a" / "b").chmod(0o755),
        lambda: (two / "environment" / "a" / "b").rename(two / "environment" / "a" / "c"),
        lambda: (two / "environment" / "empty").mkdir(),
        lambda: os.symlink("Dockerfile", two / "environment" / "link"),
    ):
        change()
        assert named(two) not in seen
        seen.add(named(two))


def test_folders_of_tasks(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_task(tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [path.name for path in find_tasks(tmp_path)] == ["a", "b", "c"]
    assert find_tasks(tmp_path / "b") == [tmp_path / "b"]
    with pytest.raises(NotFound, match="no task there"):
        find_tasks(tmp_path / "notes")


def test_tasks_by_name() -> None:
    for name in terminal_tasks():
        assert TaskFolder.load(terminal_task(name)).name == name.replace(":", "/")
    with pytest.raises(NotFound, match="did you mean megaflow:count-words"):
        TerminalEnv.sandboxes("megaflow:count-word")


def test_a_wrong_task_fails_before_there_is_a_sandbox(tmp_path: Path) -> None:
    with pytest.raises(MegaflowError, match="no such folder"):
        TerminalEnv.sandboxes(str(tmp_path / "absent"))
    with pytest.raises(NotFound, match="no such folder"):
        gym.make("megaflow/Terminal-v0", task=str(tmp_path / "absent"))
