from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import megaflow
from megaflow.imports import when_imported


def printed(program: str, *path: Path) -> Any:
    """What a new process prints, as JSON."""
    found = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n{program}"
    process = subprocess.run([sys.executable, "-c", found], capture_output=True, check=True)
    return json.loads(process.stdout)


OURS = """
import json, gymnasium
print(json.dumps([name for name in gymnasium.registry if name.startswith("megaflow/")]))
"""


HEAVY = {"gymnasium", "numpy", "cloudpickle", "typer"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("megaflow_server.standalone", HEAVY),
        # Nobody may have configured it.
        ("megaflow_server.embedded", {*HEAVY, "megaflow_server.config"}),
    ],
)
def test_a_server_starts_without_what_environments_need(module: str, heavy: set[str]) -> None:
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    assert heavy.isdisjoint(printed(program))


def test_importing_the_package_imports_what_errors_need() -> None:
    modules = printed("import json, sys, megaflow; print(json.dumps(sorted(sys.modules)))")
    assert "megaflow.errors" in modules
    assert {"gymnasium", "numpy", "megaflow.client"}.isdisjoint(modules)


def test_every_name_is_there_as_soon_as_it_is_asked_for() -> None:
    program = "from megaflow import *; print(len({make, make_vec, Client, Task, Tls, Sandbox}))"
    assert printed(program) == 6
    for name in megaflow.__all__:
        assert getattr(megaflow, name).__module__.startswith("megaflow.")


def test_a_name_that_is_not_there_is_told_as_python_tells_it() -> None:
    with pytest.raises(AttributeError, match="module 'megaflow' has no attribute 'mak'"):
        getattr(megaflow, "mak")  # noqa: B009 - mypy would know
    with pytest.raises(ImportError, match="cannot import name 'mak' from 'megaflow'"):
        exec("from megaflow import mak")


@pytest.mark.parametrize(
    "imports",
    [
        "import megaflow, gymnasium",
        "import gymnasium, megaflow",
        "import megaflow; from gymnasium.envs.registration import registry",
        "import megaflow, importlib.util; importlib.util.find_spec('gymnasium')",
        "import megaflow; megaflow.make",
    ],
)
def test_ids_are_registered_whoever_is_imported_first(imports: str) -> None:
    ids = ["megaflow/Remote-v0", "megaflow/Terminal-v0", "megaflow/SWE-v0"]
    assert printed(imports + OURS) == ids


WATCHED = """
import importlib, importlib.util, json, sys
from megaflow.imports import when_imported
seen, finders = [], list(sys.meta_path)
when_imported("watched", lambda: seen.append(sys.modules["watched"].VALUE))
"""


def test_what_waits_for_a_module_runs_once_it_has_run(tmp_path: Path) -> None:
    (tmp_path / "watched.py").write_text("VALUE = 7")
    program = """
seen.append(importlib.util.find_spec("watched") is not None)
import watched
importlib.reload(watched)
source = watched.__loader__.get_source("watched")
print(json.dumps([seen, sys.meta_path == finders, source, type(watched.__loader__).__name__]))
"""
    assert printed(WATCHED + program, tmp_path) == [
        [True, 7],
        True,
        "VALUE = 7",
        "SourceFileLoader",
    ]


def test_a_module_that_fails_may_come_later(tmp_path: Path) -> None:
    (tmp_path / "watched.py").write_text("import sys; VALUE = 1 / len(sys.argv[1:])")
    program = """
try:
    import watched
except ZeroDivisionError:
    sys.argv.append("")
import watched
print(json.dumps([seen, sys.meta_path == finders]))
"""
    assert printed(WATCHED + program, tmp_path) == [[1.0], True]


def test_a_module_that_is_nowhere_is_told_as_ever() -> None:
    program = """
try:
    import watched
except ModuleNotFoundError as error:
    print(json.dumps([str(error), seen]))
"""
    assert printed(WATCHED + program) == ["No module named 'watched'", []]


def test_what_waits_for_a_module_that_is_there_runs_now() -> None:
    seen: list[str] = []
    when_imported("json", lambda: seen.append("json"))
    assert seen == ["json"]
