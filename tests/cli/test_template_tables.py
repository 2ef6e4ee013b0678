"""`[templates.NAME]` of megaflow.toml: every key, and whatever else somebody may write there."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow_server.backends import Limits
from megaflow_server.config import Config, _faults, load
from megaflow_server.template_tables import (
    LimitsTable,
    NetworkTable,
    PoolTable,
    ProbeTable,
    RequestsTable,
    ResourcesTable,
    TemplateTable,
    UserTable,
)
from megaflow_server.templates import (
    PoolSize,
    Probe,
    Reaches,
    Requests,
    Template,
    Users,
    find_template,
)


def written(folder: Path, text: str) -> Path:
    path = folder / "megaflow.toml"
    path.write_text(text)
    return path


def test_every_key_of_a_template(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [templates.python-task]
        backend = "docker"
        image = "registry.example/python-task@sha256:0"
        profile = "standard"
        network = { setup = "public", agent = "none", verifier = ["packages.example", "files.hosted.example"] }
        user = { setup = "root", agent = "1000" }
        resources = { requests = { cpu = 0.5, memory = "512Mi" }, limits = { cpu = 2, memory = "4Gi", pids = 100 } }
        pool = { min = 2, target = 8, max = 64, max_reuses = 20 }
        mode = "persistent"
        reset = ["git clean -fdx"]
        probe = { commands = ["git diff --quiet"], ignore = ["/var/log"] }
        evidence = ["/logs/report.json"]
        directory = "/repository"
        environ = { CI = "1" }
        """,
    )
    assert load(path, {}).made_templates() == {
        "python-task": Template(
            "python-task",
            "docker",
            "registry.example/python-task@sha256:0",
            profile="standard",
            network=Reaches("public", "none", ("packages.example", "files.hosted.example")),
            user=Users("root", "1000", None),
            requests=Requests(0.5, 512 << 20),
            limits=Limits(cpu=2, memory=4 << 30, pids=100),
            pool=PoolSize(2, 8, 64, 20),
            mode="persistent",
            reset=("git clean -fdx",),
            probe=Probe(("git diff --quiet",), ("/var/log",)),
            evidence=("/logs/report.json",),
            directory="/repository",
            environ={"CI": "1"},
        )
    }


def test_a_template_that_says_nothing_is_processes_that_reach_nothing(tmp_path: Path) -> None:
    (template,) = load(written(tmp_path, "[templates.a]"), {}).made_templates().values()
    assert template == Template("a")
    assert template.network == Reaches("none", "none", "none")


def test_one_value_is_for_every_phase(tmp_path: Path) -> None:
    text = '[templates.a]\nnetwork = "public"\nuser = "root"'
    (template,) = load(written(tmp_path, text), {}).made_templates().values()
    assert template.network == Reaches("public", "public", "public")
    assert template.user == Users("root", "root", "root")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("imgae = 'a'", "templates.a.imgae: unknown key; did you mean templates.a.image?"),
        (
            "pool = { mni = 1 }",
            "templates.a.pool.mni: unknown key; did you mean templates.a.pool.min?",
        ),
        (
            "resources = { limits = { memry = 1 } }",
            "templates.a.resources.limits.memry: unknown key; did you mean templates.a.resources.limits.memory?",
        ),
        ("pool = { min = 9, max = 8 }", "give a min and a target of at most max"),
        ("pool = { max = 0 }", "templates.a.pool.max = 0: give more than 0"),
        (
            "mode = 'always'",
            "templates.a.mode = 'always': give 'ephemeral', 'persistent' or 'auto'",
        ),
        ("network = 'some'", 'give "none", "public", or the hosts'),
        ("network = { agent = [] }", 'templates.a.network.agent = []: give "none", "public"'),
        ("network = { agents = 'none' }", "did you mean templates.a.network.agent?"),
        (
            "resources = { limits = { cpu = nan } }",
            "templates.a.resources.limits.cpu = nan: give a number that is neither inf nor nan",
        ),
        ("resources = { limits = { cpu = inf } }", "neither inf nor nan"),
        ("resources = { limits = { memory = '4Gib' } }", "is no amount of memory"),
        (
            "resources = { requests = { cpu = 3 }, limits = { cpu = 2 } }",
            "requests.cpu is more than limits.cpu",
        ),
        ("probe = { ignore = ['var/log'] }", "give an absolute path without '..'"),
        ("evidence = ['/logs/../etc']", "give an absolute path without '..'"),
        ("image = ''", "templates.a.image = '': give text, in quotes"),
        ("environ = { A = 1 }", "templates.a.environ.A = 1: give text, in quotes"),
    ],
)
def test_what_makes_no_sense_is_named_with_a_way_out(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load(written(tmp_path, f"[templates.a]\n{text}"), {})
    assert fault in caught.value.message


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"megaflow.toml: template 'a b': a name takes"):
        load(written(tmp_path, '[templates."a b"]'), {})


TABLES: dict[str, type[BaseModel]] = {
    "": TemplateTable,
    "network": NetworkTable,
    "user": UserTable,
    "resources": ResourcesTable,
    "resources.requests": RequestsTable,
    "resources.limits": LimitsTable,
    "pool": PoolTable,
    "probe": ProbeTable,
}
KEYS = [
    f"{table}.{name}".strip(".") for table, model in TABLES.items() for name in model.model_fields
]
SCALARS = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=20), st.just(date(2026, 1, 1))
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=5), SCALARS, max_size=2),
)


@given(st.sampled_from(KEYS), VALUES)
@example("mode", "")
@example("image", "")
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_key_holds_is_taken_or_refused_in_plain_words(key: str, value: object) -> None:
    tables: object = value
    for name in reversed(["templates", "a", *key.split(".")]):
        tables = {name: tables}
    try:
        config = Config.model_validate(tables)
    except ValidationError as error:
        for line in _faults(error):
            assert line.startswith(f"templates.a.{key.split('.')[0]}")
            assert "pydantic" not in line
    else:
        config.made_templates()


def test_a_template_that_is_not_there_is_named_with_the_nearest() -> None:
    templates = {name: Template(name) for name in ("python", "rust")}
    with pytest.raises(NotFound, match="it has python, rust; did you mean 'python'"):
        find_template(templates, "pyton")
    with pytest.raises(NotFound, match=r"it has none$"):
        find_template({}, "python")


def test_an_image_is_the_templates_or_the_tasks() -> None:
    assert Template("a").with_image("b").image == "b"
    assert Template("a", image="b").with_image(None).image == "b"
    with pytest.raises(FailedPrecondition, match="image='b' is fixed"):
        Template("a", image="b").with_image("c")
