from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument, NotFound
from megaflow_envs.swe import SWEEnv, load_row, load_rows
from megaflow_envs.swe.logs import PARSERS, name_of

PATCH = "--- a/tests/test_a.py\n+++ b/tests/test_a.py\n@@ -1 +1 @@\n-a\n+b\n"
ROW = {
    "instance_id": "Owner__repo-12",
    "repo": "owner/repo",
    "base_commit": "0123456789" * 4,
    "problem_statement": "It is wrong.",
    "test_patch": PATCH,
    "patch": PATCH.replace("tests/test_a.py", "a.py"),
    "FAIL_TO_PASS": '["tests/test_a.py::test_x[1-2]"]',
    "PASS_TO_PASS": ["tests/test_a.py::test_y"],
    "hints_text": "",
    "some_other_field": {"of": ["this", "data set"]},
}


def written(path: Path, *rows: dict[str, Any] | str) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_row_of_swe_benchs(tmp_path: Path) -> None:
    path = written(
        tmp_path / "rows.jsonl", ROW, {**ROW, "instance_id": "owner__repo-13", "image_name": "x:1"}
    )
    row = load_row(path, "Owner__repo-12")
    assert row.FAIL_TO_PASS == ("tests/test_a.py::test_x[1-2]",)
    assert row.PASS_TO_PASS == ("tests/test_a.py::test_y",)
    assert row.directives == ["tests/test_a.py"]
    assert row.image == "swebench/sweb.eval.x86_64.owner_1776_repo-12:latest"
    assert SWEEnv.sandboxes(path, "owner__repo-13")["sandbox"].image == "x:1"
    assert SWEEnv.sandboxes(path, "owner__repo-13", image="y:2")["sandbox"].image == "y:2"
    assert [one.instance_id for one in load_rows(path)] == ["Owner__repo-12", "owner__repo-13"]


def test_djangos_tests_are_modules(tmp_path: Path) -> None:
    patch = PATCH.replace("tests/test_a.py", "tests/admin/test_a.py")
    path = written(tmp_path / "rows.jsonl", {**ROW, "repo": "django/django", "test_patch": patch})
    assert load_row(path, "Owner__repo-12").directives == ["admin.test_a"]


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in ROW.items() if name != field}


WRONG: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no json": ("{", "rows.jsonl:2: no JSON"),
    "no object": ("[1]", "rows.jsonl:2: list, where an object is due"),
    "misspelled": (
        {**without("FAIL_TO_PASS"), "fail_to_pass": []},
        "rows.jsonl:2: no FAIL_TO_PASS",
    ),
    "no tests": ({**ROW, "FAIL_TO_PASS": []}, "rows.jsonl:2: FAIL_TO_PASS"),
    "tests of numbers": ({**ROW, "PASS_TO_PASS": [1]}, "rows.jsonl:2: PASS_TO_PASS = "),
    "tests of broken json": ({**ROW, "PASS_TO_PASS": "[1"}, "rows.jsonl:2: PASS_TO_PASS = "),
    "short commit": (
        {**ROW, "base_commit": "0123"},
        "rows.jsonl:2: base_commit = '0123': give the 40",
    ),
    "no patch": (
        {**ROW, "test_patch": "hello"},
        "rows.jsonl:2: test_patch = 'hello': give a patch",
    ),
    "a patch outside": (
        {**ROW, "test_patch": PATCH.replace("tests/test_a.py", "../x")},
        "rows.jsonl:2: test_patch = .*outside of the repository",
    ),
    "a patch of git's own": (
        {**ROW, "test_patch": PATCH.replace("tests/test_a.py", ".git/hooks/x")},
        "rows.jsonl:2: test_patch = .*outside of the repository",
    ),
    "a parser that is none": (
        {**ROW, "log_parser": "x"},
        "rows.jsonl:2: log_parser = 'x': takes one of",
    ),
    "nothing to begin with": ({**ROW, "needs_image": False}, "rows.jsonl:2: .*base_patch"),
    "an id that leads elsewhere": (
        {**ROW, "instance_id": "../x"},
        "rows.jsonl:2: instance_id = '../x'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows_are_told_with_their_line(case: str, tmp_path: Path) -> None:
    row, message = WRONG[case]
    path = written(tmp_path / "rows.jsonl", ROW, row)
    with pytest.raises(InvalidArgument, match=message):
        list(load_rows(path))


def test_rows_and_files_that_are_not_there(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", ROW)
    with pytest.raises(NotFound, match="did you mean 'Owner__repo-12'"):
        SWEEnv.sandboxes(path, "owner__repo-12")
    with pytest.raises(NotFound, match="no such file"):
        SWEEnv.sandboxes(str(tmp_path), "x")


def test_what_pytest_prints() -> None:
    log = (
        "PASSED tests/a.py::test_x[a - b]\nPASSED tests/a.py::test_y\nFAILED tests/a.py::test_z - assert 1 == 2\n"
        "XFAIL tests/a.py::test_w - why\nSKIPPED [1] tests/a.py:3: no\nERROR tests/b.py\nPASSED tests/a.py::test_z\n"
    )
    statuses = PARSERS["pytest"](log)
    assert statuses["tests/a.py::test_y"]
    assert statuses["tests/a.py::test_w"]
    # What is told of as failed once has failed.
    assert statuses["tests/a.py::test_z"] is False
    assert statuses["tests/b.py"] is False


def test_what_unittest_prints() -> None:
    log = (
        "test_a (tests.x.Some.test_a) ... ok\ntest_b (tests.x.Some) ... FAIL\ntest_c (tests.x.Some.test_c) ... "
        "skipped 'why'\ntest_d (tests.x.Some.test_d) ... ERROR\nnoise\ntest_e (x.Some.test_e) ... expected failure\n"
    )
    assert PARSERS["unittest"](log) == {
        "test_a (tests.x.Some)": True,
        "test_b (tests.x.Some)": False,
        "test_c (tests.x.Some)": False,
        "test_d (tests.x.Some)": False,
        "test_e (x.Some)": True,
    }


@given(st.text(), st.sampled_from(sorted(PARSERS)))
def test_any_log_is_read(log: str, parser: str) -> None:
    statuses = PARSERS[parser](log)
    assert all(name_of(name) == name for name in statuses)
