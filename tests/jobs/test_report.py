from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow import Failure, JobStatus, Result, TaskEvent, TaskStatus
from megaflow.errors import InvalidArgument
from megaflow_server.jobs.comparison import compared
from megaflow_server.jobs.drawing import facts, lines, write_report
from megaflow_server.jobs.report import Report, pass_at, report_of
from megaflow_server.jobs.results import Gathered

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)


def gathered(*rewards: Sequence[float | None]) -> Gathered:
    """A job whose tasks have samples with these rewards; None is an invalid one."""
    results = {}
    for index, samples in enumerate(rewards):
        for sample, reward in enumerate(samples):
            valid = reward is not None
            named = {} if reward is None else {"reward": reward}
            failure = None if valid else Failure("verifier", "evaluating", "no report")
            place = (f"j/{index}", index, sample, f"t{index}", "succeeded" if valid else "failed")
            results[index, sample] = Result(*place, valid, reward, named, failure, "", 1, 0, 1)
    status = JobStatus("j", "mon", BEGIN, len(results), len(results), True, False, 0, {})
    return Gathered(status, None, results)


def history(*events: tuple[str, float]) -> TaskStatus:
    before, made = "", []
    for after, second in events:
        made.append(TaskEvent(BEGIN + timedelta(seconds=second), 1, before, after, ""))
        before = after
    return TaskStatus("j/0", "j", before, "", (), tuple(made), None)


def report() -> Report:
    statuses = [
        history(
            ("queued", 0), ("starting", 1), ("running", 3), ("evaluating", 8), ("succeeded", 9)
        ),
        history(("queued", 0), ("starting", 5), ("running", 6), ("succeeded", 10)),
    ]
    return report_of(gathered([1.0, 0.0], [1.0, None]), statuses)


def test_a_report() -> None:
    found = report()
    assert (found.mean, found.samples, found.failures) == (2 / 3, 4, {"verifier": 1})
    assert found.pass_at == {1: 0.75, 2: 1.0}  # of two samples, only the first task has two
    assert found.phases["queued"].p50 == 3.0
    assert found.phases["running"].p50 == 4.5
    assert "retrying" not in found.phases
    assert found.concurrency[-1] == (10.0, 0)
    assert (found.peak, found.wall) == (2, 10.0)
    assert found.utilisation == pytest.approx(13 / 20)
    said = dict(lines(found))
    assert said["pass@1"] == "0.750"
    assert said["running, p50 / p95 / p99"] == "4.50 s / 4.95 s / 4.99 s"
    assert facts(found)["peak_concurrency"] == 2


def test_a_report_of_nothing_yet() -> None:
    found = report_of(gathered(), [])
    assert dict(lines(found))["samples with a reward"] == "0 of 0"
    assert facts(found)["utilisation"] is None


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_what_drawing_k_samples_gives(samples: int, data: st.DataObject) -> None:
    passed, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    draws = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("name", ["r.png", "r.html"])
def test_it_is_drawn(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    write_report(report(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert content.startswith(b"\x89PNG") if name == "r.png" else b"pass@1" in content
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_it_is_drawn_as_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"ends with \.png or \.html"):
        write_report(report(), tmp_path / "r.pdf")


def test_a_change_that_chance_may_explain_is_no_regression() -> None:
    found = compared(gathered(*[[1.0]] * 10), gathered(*[[1.0]] * 9, [0.0]))
    assert not found.regressed
    assert found.low < -0.1 < found.high == 0.0
    assert [pair.name for pair in found.worse] == ["t9"]
    assert compared(gathered(*[[1.0]] * 10), gathered(*[[0.0]] * 10)).regressed
    assert compared(gathered(*[[0.0]] * 10), gathered(*[[1.0]] * 10)).improved


def test_few_samples_make_nothing_sure() -> None:
    few = compared(gathered(*[[1.0]] * 5), gathered(*[[0.0]] * 5))
    assert few.few
    assert few.high < 0.0
    assert not few.regressed
    assert not compared(gathered(*[[0.0]] * 5), gathered(*[[1.0]] * 5)).improved
    assert compared(gathered([1.0] * 6), gathered([0.0] * 6)).regressed


def test_samples_within_a_task_are_chance_too() -> None:
    # One task: 5 of 8 against 3 of 8.
    one = compared(gathered([1.0] * 5 + [0.0] * 3), gathered([1.0] * 3 + [0.0] * 5))
    assert one.low < -0.5
    assert one.high > 0.0
    assert not one.regressed


def test_what_is_invalid_is_left_out_and_what_differs_between_samples_is_flaky() -> None:
    found = compared(gathered([1.0, 0.0], [None], [1.0]), gathered([1.0, 1.0], [1.0], [1.0]))
    assert [(pair.name, pair.flaky) for pair in found.pairs] == [("t0", True), ("t2", False)]
    assert found.lacking == ("t1",)
    assert (found.before, found.after) == (0.75, 1.0)


def test_rewards_are_counted_from_0_to_1_at_least() -> None:
    for rewards, first, last, within in (
        ([1.0, 1.0], 0, 2, (0.0, 1.0)),
        ([0.0], 1, 0, (0.0, 1.0)),
        ([], 0, 0, (0.0, 1.0)),
        ([-3.0, 5.0], 1, 1, (-3.0, 5.0)),
    ):
        counts, edges = report_of(gathered(rewards), []).histogram()
        assert (counts[0], counts[-1], edges[0], edges[-1]) == (first, last, *within)
        assert sum(counts) == len(rewards)
