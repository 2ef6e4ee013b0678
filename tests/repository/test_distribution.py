from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"megaflow", "megaflow_adapters", "megaflow_envs", "megaflow_server"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (path,) = folder.glob("*.whl")
    return zipfile.Path(path)


def names(wheel: zipfile.Path) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in wheel.root.namelist()]


def entry_points(wheel: zipfile.Path) -> configparser.ConfigParser:
    (path,) = (name for name in names(wheel) if name.name == "entry_points.txt")
    points = configparser.ConfigParser()
    points.read_string((wheel / str(path)).read_text())
    return points


def test_the_wheel_holds_the_four_packages_and_no_other_name(wheel: zipfile.Path) -> None:
    top = {name.parts[0] for name in names(wheel)}
    (metadata,) = (name for name in top if name.endswith(".dist-info"))
    assert top - {metadata} == PACKAGES


def test_each_package_in_the_wheel_is_typed(wheel: zipfile.Path) -> None:
    assert {str(name.parent) for name in names(wheel) if name.name == "py.typed"} == PACKAGES


def test_the_wheel_holds_every_module_of_the_repository(wheel: zipfile.Path) -> None:
    here = {
        path.relative_to(base).as_posix()
        for base, package in (
            (ROOT, "megaflow"),
            (ROOT / "envs", "megaflow_envs"),
            (ROOT / "adapters", "megaflow_adapters"),
            (ROOT / "server", "megaflow_server"),
        )
        for path in (base / package).rglob("*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    assert here <= {str(name) for name in names(wheel)}


def test_the_wheel_holds_no_tests_and_no_caches(wheel: zipfile.Path) -> None:
    wrong = [
        str(name)
        for name in names(wheel)
        # Folders of tasks have what their verifiers run under this name.
        if not name.is_relative_to("megaflow_envs/tasks")
        if name.name.startswith(("test_", "conftest")) or {"tests", "__pycache__"} & {*name.parts}
    ]
    assert not wrong


def test_the_wheel_gives_the_command_and_the_inline_connection(wheel: zipfile.Path) -> None:
    points = entry_points(wheel)
    assert points["console_scripts"]["megaflow"] == "megaflow_server.cli:main"
    assert points["megaflow.inline"]["connection"] == (
        "megaflow_server.worker.inline:InlineConnection"
    )


def test_the_entry_points_lead_to_code(wheel: zipfile.Path) -> None:
    for group in ("console_scripts", "megaflow.inline"):
        for name, value in entry_points(wheel)[group].items():
            assert callable(EntryPoint(name, value, group).load())
