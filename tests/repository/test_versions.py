"""The suite runs on three sets of versions: here it sees that they are three, and that it runs on the one named."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from version_sets import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "tests" / "constraints"


def read(name: str) -> dict[str, Requirement]:
    lines = (CONSTRAINTS / f"{name}.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: pin for pin in pins}


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set")
def test_the_environment_is_the_one_that_the_run_names() -> None:
    wrong = {
        name: version(name)
        for name, pin in read(os.environ[VARIABLE]).items()
        if not pin.specifier.contains(version(name))
    }
    assert not wrong


def test_the_sets_cover_both_gymnasiums_and_three_major_versions_of_protobuf() -> None:
    pins = [read(name) for name in ("oldest", "middle", "newest")]
    assert [str(pin["protobuf"].specifier)[2] for pin in pins] == ["5", "6", "7"]
    assert [str(pin["gymnasium"].specifier)[2:5] for pin in pins] == ["1.2", "1.4", "1.4"]


def test_the_oldest_set_is_the_lower_bounds_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {
        requirement.name: clause.version
        for requirement in map(Requirement, project["dependencies"])
        for clause in requirement.specifier
        if clause.operator == ">="
    }
    pins = read("oldest")
    assert pins.keys() >= bounds.keys()  # and what a bound would let float to a newer time
    wrong = {
        name: bound for name, bound in bounds.items() if not pins[name].specifier.contains(bound)
    }
    assert not wrong


def test_no_two_modules_of_tests_have_one_name() -> None:
    # pytest imports them by that name alone, and refuses the second only when all of a run is collected.
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert names == sorted(set(names))
