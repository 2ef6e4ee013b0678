from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROMISE = re.compile(r"S(\d+)\. (.+) — (`[^`]+`(?:, `[^`]+`)*)")


def promises(text: str) -> dict[int, list[str]]:
    """Number to test ids; AssertionError, with the line, for one that is not of the form."""
    found: dict[int, list[str]] = {}
    for line in text.splitlines():
        if not re.match(r"\W*S\d", line) or line.startswith("    "):
            continue
        match = PROMISE.fullmatch(line)
        assert match is not None, f"not of the form 'S1. Text. — `tests/x.py::test_y`': {line}"
        number = int(match[1])
        assert number not in found, f"S{number} stands twice"
        found[number] = re.findall(r"`([^`]+)`", match[3])
    return found


def functions_of(source: str) -> set[str]:
    """`test_x` for each test function at the top level, `TestX::test_y` for each in a class.

    And `TestZ` alone for Z.TestCase, and for a class that has the tests of a contract.
    """
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value).endswith(".TestCase"):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
            continue
        prefix = ""
        functions: list[ast.stmt] = [node]
        if isinstance(node, ast.ClassDef):
            prefix, functions = f"{node.name}::", node.body
            if any(ast.unparse(base).endswith("Contract") for base in node.bases):
                names.add(node.name)
        names.update(
            prefix + function.name
            for function in functions
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            and function.name.startswith("test_")
        )
    return names


def missing(ids: list[str], root: Path = ROOT) -> list[str]:
    absent = []
    for name in ids:
        path, _, test = name.partition("::")
        file = root / path
        known = path.startswith("tests/") and file.is_file()
        if not known or test not in functions_of(file.read_text()):
            absent.append(name)
    return absent


def test_every_promise_names_tests_that_exist() -> None:
    found = promises((ROOT / "SPECIFICATION.md").read_text())
    assert found
    absent = {f"S{number}": gone for number, ids in found.items() if (gone := missing(ids))}
    assert not absent


def test_promises_are_numbered_without_a_gap() -> None:
    found = promises((ROOT / "SPECIFICATION.md").read_text())
    assert list(found) == list(range(1, len(found) + 1))


@pytest.mark.parametrize(
    "line",
    [
        "S1. A promise without a test.",
        "S1. A promise. - `tests/x.py::test_y`",
        "- S1. A promise. — `tests/x.py::test_y`",
        "S1 A promise. — `tests/x.py::test_y`",
    ],
)
def test_a_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(AssertionError, match="not of the form"):
        promises(line)


def test_a_number_stands_once() -> None:
    with pytest.raises(AssertionError, match="S1 stands twice"):
        promises("S1. A. — `tests/x.py::test_y`\nS1. B. — `tests/x.py::test_y`")


def test_a_test_that_does_not_exist_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(
        "class TestA:\n    async def test_in(self): ...\ndef test_on(): ...\ndef helper(): ...\n"
    )
    here = ["tests/test_x.py::test_on", "tests/test_x.py::TestA::test_in"]
    gone = ["tests/test_x.py::test_off", "tests/test_x.py::helper", "tests/test_y.py::test_on"]
    assert missing([*here, *gone], tmp_path) == gone
