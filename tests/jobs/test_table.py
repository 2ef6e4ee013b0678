from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from megaflow import Failure, JobStatus, Result
from megaflow_server.jobs.datasets import Broken
from megaflow_server.jobs.junit import junit
from megaflow_server.jobs.progress import Progress
from megaflow_server.jobs.table import duration, failed_line, live, plain

NAMES = {0: "sort-the-mail", 1: "count-words"}


def status(total: int = 10, **states: int) -> JobStatus:
    done = sum(states.get(name, 0) for name in ("succeeded", "failed", "cancelled", "quarantined"))
    return JobStatus("j", "mon", datetime.now(UTC), total, done, True, False, 7, states)


def result(
    index: int = 0,
    reward: float | None = 1.0,
    failure: Failure | None = None,
    sample: int = 0,
    retries: int = 0,
) -> Result:
    valid = reward is not None
    rewards: Mapping[str, float] = {} if reward is None else {"reward": reward}
    state = "succeeded" if valid else "failed"
    place = (f"j/{index}", index, sample, "")
    return Result(*place, state, valid, reward, rewards, failure, "", 5, retries, 1)


BAD = Failure("verifier", "evaluating", "no report at /logs/[bold]ctrf.json", "line\x00\x1b[31m\n")


def shown(renderable: RenderableType, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, height=24, color_system=None).print(renderable)
    return out.getvalue()


def half_way() -> Progress:
    progress = Progress(broken=(Broken("b", "no instruction.md"),))
    progress.hear(status(queued=8, running=2), 100.0)
    progress.take(result(0, 1.0, retries=1))
    progress.take(result(1, None, BAD))
    progress.hear(status(queued=4, running=2, retrying=1, succeeded=2, failed=1), 160.0)
    return progress


def test_figures() -> None:
    progress = half_way()
    assert progress.rate() == 3 / 60
    assert progress.eta() == 7 / (3 / 60)
    assert progress.mean_reward() == 1.0  # what is invalid is no 0
    (failed,) = progress.failures()
    assert (failed.kind, failed.count, failed.valid) == ("verifier", 1, False)
    assert not progress.complete


def test_the_rate_is_of_late() -> None:
    progress = Progress()
    for second in range(0, 1000, 10):
        progress.hear(status(1000, succeeded=min(second, 500)), float(second))
    assert progress.rate() is None  # nothing has ended for two minutes
    progress.hear(status(1000, succeeded=560), 1000.0)
    assert progress.rate() == 60 / 120


def test_a_terminal_shows_what_there_is() -> None:
    said = shown(live("mon", half_way(), 160.0, [("merge [settings]", "running", 3725.0)]))
    for part in (
        "mon", "3 of 10", "4 queued", "1 retrying", "2 running", "2 succeeded", "1 failed",
        "mean reward 1.000", "3/min", "2:20 min left", "after 1:00 min", "1 retries", "1 broken",
        "verifier", "no results", "no report at /logs/[bold]ctrf.json",
        "1:02 h", "merge [settings]",
    ):  # fmt: skip
        assert part in " ".join(said.split()), said
    assert len(said.splitlines()) <= 24


def test_a_job_that_nothing_runs_of_says_what_to_ask() -> None:
    progress = Progress()
    assert "waiting for the server" in shown(live("mon", progress, 0.0))
    progress.hear(status(queued=10), 1.0)
    assert "megaflow why TASK" in shown(live("mon", progress, 1.0))


def test_plain_lines() -> None:
    assert plain("mon", half_way(), 160.0) == (
        "mon: 3/10, 4 queued, 1 retrying, 2 running, 2 succeeded, 1 failed, mean reward 1.000, 3/min, "
        "2:20 min left, after 1:00 min, 1 retries, 1 broken"
    )
    assert failed_line(result(), NAMES) is None
    assert failed_line(result(1, None, BAD, sample=2), NAMES) == (
        "count-words [3]: no result: verifier while evaluating: no report at /logs/[bold]ctrf.json"
    )
    erred = Failure("agent", "running", "ValueError")
    assert failed_line(result(0, 0.0, erred), NAMES) == (
        "sort-the-mail: reward 0: agent while running: ValueError"
    )


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100)), max_size=20), st.integers(20, 200)
)
def test_whatever_comes_is_shown(heard: list[tuple[int, int]], width: int) -> None:
    progress, now = Progress(), 0.0
    for done, seconds in heard:
        now += seconds
        progress.hear(status(9, succeeded=done, queued=9 - done), now)
        progress.take(result(done, None, BAD) if seconds % 2 else result(done))
    assert shown(live("mon", progress, now), width)
    assert plain("mon", progress, now)


def test_durations() -> None:
    assert [duration(one) for one in (None, 0.4, 59, 60, 3599.6, 7322)] == [
        "–", "0 s", "59 s", "1:00 min", "1:00 h", "2:02 h"
    ]  # fmt: skip


def test_junit() -> None:
    results = [result(1, None, BAD), result(0, 1.0), result(0, 0.0, sample=1)]
    written = junit("mon", results, [Broken("b", "no instruction.md")], NAMES)
    (suite,) = ElementTree.fromstring(written)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "2")
    kinds = [(case.get("name"), case[0].tag) for case in suite]
    assert kinds == [
        ("sort-the-mail", "system-out"),
        ("sort-the-mail [2]", "failure"),
        ("count-words", "error"),
        ("b", "error"),
    ]
    error = suite[2][0]
    assert (error.get("type"), error.get("message")) == (
        "verifier",
        "no result: no report at /logs/[bold]ctrf.json",
    )
    assert error.text == "line\ufffd\ufffd[31m\n"
