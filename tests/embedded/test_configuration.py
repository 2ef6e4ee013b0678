"""`server=None`: what sandboxes are made of is in megaflow.toml, as it is for a server that somebody starts."""

from __future__ import annotations

from pathlib import Path

import pytest

import lent_environments
from docker_rig import busybox, new_scope
from leftovers import Place
from megaflow_server.config_file import VARIABLE, find
from megaflow_server.runs import STATE_VARIABLE
from task_rig import write_task

TEMPLATES = """
import sys
import megaflow

try:
    with megaflow.Client() as client:
        print(sorted((pool.template, pool.max) for pool in client.pools()))
        client.prepare("box", 0)
        print(sorted((pool.template, pool.max) for pool in client.pools()))
except megaflow.errors.MegaflowError as error:
    print(type(error).__name__, error.message)
"""

EPISODE = """
import sys
import megaflow

env = megaflow.make("megaflow/Terminal-v0", task=sys.argv[1])
for command in ("true", "echo 42 >/app/answer"):
    env.reset()
    print(env.step("cat /app/made; " + command)[0])
    print(env.step("submit")[1])
env.close()
"""


def test_the_file_is_the_one_that_is_named_or_the_one_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert find() is None
    (tmp_path / "megaflow.toml").write_text("")
    assert find() == tmp_path / "megaflow.toml"
    monkeypatch.setenv(VARIABLE, "elsewhere.toml")
    assert find() == Path("elsewhere.toml")


@pytest.mark.parametrize("way", ["here", "named"])
def test_templates_are_those_of_the_file(here: Place, way: str) -> None:
    script = here.script("main.py", TEMPLATES)
    folder = here.folder / "project"
    folder.mkdir()
    (folder / "megaflow.toml").write_text("[templates.box]\npool = { max = 3 }\n")
    if way == "here":
        process = here.start(str(script), cwd=folder)
    else:
        process = here.start(str(script), variables={VARIABLE: str(folder / "megaflow.toml")})
    printed, errors = process.communicate(timeout=90)
    assert printed.splitlines()[-1] == "[('box', 3)]", errors


def test_a_fault_of_the_file_is_told_and_no_traceback(here: Place) -> None:
    script = here.script("main.py", TEMPLATES)
    here.script("megaflow.toml", '[templates.box]\nbackend = "process"\npols = { max = 3 }\n')
    printed = here.run(str(script))
    assert printed == (
        f"InvalidArgument {here.folder / 'megaflow.toml'}: templates.box.pols: unknown key; did you mean "
        "templates.box.pool?\n"
    )
    here.assert_nothing_left()


@pytest.mark.requires("namespaces")
def test_an_environment_is_lent_what_its_template_says(here: Place) -> None:
    here.script("lent_environments.py", Path(lent_environments.__file__).read_text())
    here.script("megaflow.toml", '[templates.box]\nenviron = { WHO = "box" }\n')
    main = (
        "import lent_environments, megaflow\n"
        "env = megaflow.make(lent_environments.TAKER)\n"
        "env.reset()\nprint(env.step('echo $WHO')[0])\nenv.close()\n"
    )
    assert here.run(str(here.script("main.py", main))) == "box\n"


@pytest.mark.long
@pytest.mark.requires("docker")
def test_a_task_with_a_dockerfile_is_all_that_it_takes(here: Place) -> None:
    from docker_rig import engine

    scope = new_scope()
    dockerfile = f"FROM {busybox()}\nCOPY made /app/made\n"
    settings = '[environment]\nallow_internet = false\n[agent]\nuser = "root"\n'
    task = write_task(
        here.folder / "task",
        settings,
        files={"environment/Dockerfile": dockerfile, "environment/made": scope},
    )
    here.script("megaflow.toml", f'[docker]\nscope = "{scope}"\nprofile = "standard"\n')
    client = engine()
    try:
        script = here.script("main.py", EPISODE)
        process = here.start(
            str(script), str(task), variables={STATE_VARIABLE: str(here.folder / "state")}
        )
        printed, errors = process.communicate(timeout=120)
        assert printed.splitlines() == [scope, "0.0", scope, "1.0"], errors
        labels = {"label": f"megaflow-scope={scope}"}
        assert client.containers.list(all=True, filters=labels) == []
    finally:
        from megaflow.task_folders import TaskFolder

        name = TaskFolder.load(task).image
        assert name is not None
        client.images.remove(name, force=True)
        client.close()
    here.assert_nothing_left()
