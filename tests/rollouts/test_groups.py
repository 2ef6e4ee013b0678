"""Groups of rollouts: who is in one, when it is done, who is asked again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument
from megaflow.groups import Grouping, GroupTable
from megaflow.task import Result, Task

TASK = Task("CartPole-v1", "random")


def result(index: int, sample: int, reward: float | None) -> Result:
    return Result(
        task_id=f"job/{index}.{sample}",
        index=index,
        sample=sample,
        group=str(index),
        state="failed" if reward is None else "succeeded",
        valid=reward is not None,
        reward=reward,
        rewards={} if reward is None else {"reward": reward},
        failure=None,
        trajectory="",
        seed=0,
        retries=0,
        done=1,
    )


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def table(**options: Any) -> tuple[GroupTable, Time]:
    clock = Time()
    return GroupTable(Grouping(**options), clock), clock


@given(
    data=st.data(),
    size=st.integers(1, 5),
    invalid=st.sampled_from(["again", "partial"]),
    spare=st.none() | st.integers(0, 4),
    early=st.none() | st.integers(1, 5),
)
def test_every_group_is_whole_or_says_that_it_is_not(
    data: st.DataObject, size: int, invalid: str, spare: int | None, early: int | None
) -> None:
    options: dict[str, Any] = {"group_size": size, "invalid": invalid, "spare": spare}
    if early is not None:
        options |= {"min_size": min(early, size), "patience": 5.0}
    groups, clock = table(**options)
    most = Grouping(**options).most
    under_way = [place for _ in range(3) for place in groups.begin(TASK)]
    asked = list(under_way)
    given_: dict[int, list[Result]] = {0: [], 1: [], 2: []}
    while under_way:
        clock.now += data.draw(st.sampled_from([0.0, 1.0, 6.0]))
        late = groups.overdue()
        assert set(late) <= set(under_way)
        under_way = [place for place in under_way if place not in late]
        if not under_way:
            break
        index, sample = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        one = result(index, sample, data.draw(st.sampled_from([None, 0.0, 1.0])))
        given_[index].append(one)
        if (again := groups.take(one)) is not None:
            assert again not in asked
            asked.append(again)
            under_way.append(again)
        assert groups.take(one) is None  # told twice
    assert groups.wait() is None
    done = list(iter(groups.pop, None))
    assert sorted(group.index for group in done) == [0, 1, 2]
    assert groups.kept == 0
    for group in done:
        ended = given_[group.index]
        # Nothing that has a reward is left out, and nothing without one is 0.
        assert {one.sample for one in group.results} == {one.sample for one in ended if one.valid}
        assert {one.sample for one in group.spoilt} == {
            one.sample for one in ended if not one.valid
        }
        assert group.rewards == tuple(one.reward for one in group.results)
        assert None not in group.rewards
        assert group.complete == (len(group.results) == size)
        assert len([place for place in asked if place[0] == group.index]) <= most
        if not group.complete and early is None:
            assert len(ended) == most


def test_stragglers_have_their_time_and_are_cancelled_then() -> None:
    groups, clock = table(group_size=4, min_size=2, patience=10.0)
    list(groups.begin(TASK))
    groups.take(result(0, 3, 1.0))
    assert groups.wait() is None
    groups.take(result(0, 1, 0.0))
    clock.now = 4.0
    assert groups.wait() == 6.0
    assert groups.overdue() == []
    clock.now = 10.0
    assert groups.overdue() == [(0, 0), (0, 2)]
    group = groups.pop()
    assert group is not None
    assert [one.sample for one in group.results] == [1, 3]
    assert not group.complete
    # One that was faster than its cancellation comes too late.
    assert groups.take(result(0, 0, 1.0)) is None
    assert groups.pop() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group_size": 0}, "group_size=0"),
        ({"group_size": True}, "group_size=True"),
        ({"invalid": "drop"}, "invalid='drop'"),
        ({"spare": -1}, "spare=-1"),
        ({"min_size": 2}, "give both"),
        ({"min_size": 9, "patience": 1.0}, "min_size=9: is over group_size=8"),
        ({"min_size": 2, "patience": math.nan}, "patience=nan"),
    ],
)
def test_options_that_are_none_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Grouping(**options)
