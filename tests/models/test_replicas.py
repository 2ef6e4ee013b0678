from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument
from megaflow_adapters.models.backoff import retry_after, wait
from megaflow_adapters.models.replicas import Replicas


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_least_loaded_is_next() -> None:
    replicas = Replicas(["a", "b", "c"], Clock())
    assert sorted(str(replicas.start(None)) for _ in range(3)) == ["a", "b", "c"]
    replicas.finish("b")
    assert replicas.start(None) == "b"


def test_a_rollout_stays_where_it_was_until_that_one_is_much_busier() -> None:
    replicas = Replicas(["a", "b"], Clock())
    assert replicas.start("r") == "a"
    assert [replicas.start("r") for _ in range(4)] == ["a"] * 4
    assert replicas.start("r") == "b"


def test_one_that_failed_is_asked_last_until_it_cooled_down() -> None:
    clock = Clock()
    replicas = Replicas(["a", "b"], clock, cooldown=5)
    assert replicas.start("r") == "a"
    replicas.finish("a", failed=True)
    assert [replicas.start("r") for _ in range(3)] == ["b"] * 3
    clock.now = 5
    assert replicas.start(None) == "a"


def test_where_all_failed_one_is_asked_all_the_same() -> None:
    replicas = Replicas(["a"], Clock())
    assert replicas.start(None) == "a"
    replicas.finish("a", failed=True)
    assert replicas.start(None, avoid=["a"]) == "a"


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_replicas_have_a_name_each(names: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="base_urls"):
        Replicas(names, Clock())


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=60),
    st.integers(1, 4),
)
def test_loads_are_calls_under_way_and_never_more_than_they_may(
    moves: list[tuple[int, bool, bool]], most: int
) -> None:
    clock = Clock()
    replicas = Replicas(["a", "b", "c"], clock, most=most)
    under_way: list[str] = []
    for rollout, ends, failed in moves:
        clock.now += 1
        if ends and under_way:
            replicas.finish(under_way.pop(rollout % len(under_way)), failed=failed)
        else:
            name = replicas.start(str(rollout))
            assert (name is None) == (len(under_way) == 3 * most)
            if name is not None:
                under_way.append(name)
        assert replicas.loads == {each: under_way.count(each) for each in "abc"}
        assert max(replicas.loads.values()) <= most


@given(st.integers(1, 30), st.none() | st.floats(0, 100), st.integers())
def test_a_wait_is_bounded_and_never_shorter_than_was_told(
    attempt: int, told: float | None, seed: int
) -> None:
    seconds = wait(attempt, told, random.Random(seed))
    assert (told or 0) <= seconds <= (told or 0) + 20


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("-1", 0),
        (None, None),
        ("soon", None),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds
