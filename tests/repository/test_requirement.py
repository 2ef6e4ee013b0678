from __future__ import annotations

import pytest

import requirement

PROBES = {"here": lambda: True, "gone": lambda: False}


def test_a_test_runs_where_everything_it_requires_is_there() -> None:
    requirement.check(("here",), frozenset({"here"}), PROBES)


def test_a_test_is_skipped_where_something_is_missing() -> None:
    with pytest.raises(pytest.skip.Exception, match="gone"):
        requirement.check(("here", "gone"), frozenset({"here"}), PROBES)


def test_what_is_missing_fails_where_it_is_enforced() -> None:
    with pytest.raises(pytest.fail.Exception, match="gone"):
        requirement.check(("here", "gone"), frozenset({"gone"}), PROBES)


def test_an_unknown_requirement_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match="typo"):
        requirement.check(("typo",), frozenset(), PROBES)


def test_the_variable_is_a_list_of_known_names() -> None:
    assert requirement.enforced("", PROBES) == frozenset()
    assert requirement.enforced("here, gone,", PROBES) == {"here", "gone"}
    with pytest.raises(pytest.UsageError, match="typo"):
        requirement.enforced("here,typo", PROBES)
