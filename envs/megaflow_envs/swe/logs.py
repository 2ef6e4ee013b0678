"""What runners of tests print, read as one status for each test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

__all__ = ["CANARIES", "PARSERS", "name_of"]

_PYTEST = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S.*?)(?: - .*)?$")
_UNITTEST = re.compile(
    r"^(\w+) \(([\w.]+)\).*? \.\.\. (ok|FAIL|ERROR|skipped\b.*|expected failure|unexpected success)$"
)
_PASSING = frozenset({"PASSED", "XFAIL", "ok", "expected failure"})

# A test that passes, for a runner that has reported nothing: its file, and how it is named to the runner.
_CANARY = "import unittest\n\n\nclass Canary(unittest.TestCase):\n    def test_canary(self):\n        pass\n"
CANARIES = {
    "pytest": ("test_canary.py", _CANARY, "test_canary.py"),
    "unittest": ("test_canary.py", _CANARY, "test_canary"),
}


def name_of(test: str) -> str:
    """A test's name, spelled alike by all versions: unittest's once was without the method's name at its end."""
    match = re.fullmatch(r"(\w+) \(([\w.]+)\)", test)
    return f"{match[1]} ({match[2].removesuffix('.' + match[1])})" if match else test


def _pytest(log: str) -> Mapping[str, bool]:
    return _statuses(
        (match[2], match[1]) for match in map(_PYTEST.match, log.splitlines()) if match
    )


def _unittest(log: str) -> Mapping[str, bool]:
    found = (match for match in map(_UNITTEST.match, log.splitlines()) if match)
    return _statuses((f"{match[1]} ({match[2]})", match[3]) for match in found)


def _statuses(found: Iterable[tuple[str, str]]) -> Mapping[str, bool]:
    statuses: dict[str, bool] = {}
    for test, status in found:
        name = name_of(test)
        # Of a test that is told of twice, the worse counts.
        statuses[name] = statuses.get(name, True) and status in _PASSING
    return statuses


PARSERS: Mapping[str, Callable[[str], Mapping[str, bool]]] = {
    "pytest": _pytest,
    "unittest": _unittest,
}
