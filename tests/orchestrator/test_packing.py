"""What is set aside for a task: its request, until tasks like it were measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    Claim,
    Claimed,
    Command,
    CreateJob,
    Finish,
    NewTask,
    RegisterRunner,
)
from megaflow_server.orchestrator.explaining import waits_for
from megaflow_server.orchestrator.packing import MEASURED, measured, takes
from megaflow_server.orchestrator.records import Outcome, Peak, Resources, Task
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Store
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.orchestrator.store.opening import open_store

GIB = 2**30
DONE = Outcome(valid=True, reward=1.0)
AMOUNTS = st.builds(
    Resources,
    st.just(1),
    st.floats(0, 64, allow_nan=False),
    st.integers(0, 2**40),
)


class Scene:
    """A runner of 8 cores and 16 GiB, and tasks that request 4 cores and 4 GiB each."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.claims = 0
        self.do(RegisterRunner("r", Resources(100, 8.0, 16 * GIB)), CreateJob("j", "ann", 1))

    def do(self, *commands: Command) -> list[object]:
        answers = carry_out(self.store, commands, lambda: 100.0, RetryPolicy())
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def submit(self, first: int, count: int, environment: str = "Env-v0") -> None:
        requests = Resources(1, 4.0, 4 * GIB)
        self.do(
            AddTasks(
                "j",
                "ann",
                tuple(
                    NewTask(index, "{}", requests=requests, environment=environment)
                    for index in range(first, first + count)
                ),
            )
        )

    def claim(self, most: int = 100) -> list[Claimed]:
        self.claims += 1
        (claimed,) = self.do(Claim("r", most, self.claims))
        assert isinstance(claimed, list)
        return claimed

    def finish(self, claimed: list[Claimed], peak: Resources | None) -> None:
        self.do(*(Finish(one.task.id, one.task.fence, DONE, peak) for one in claimed))

    def measure(self, cpu: float, memory: int, environment: str = "Env-v0") -> None:
        """As many as are believed."""
        for number in range(MEASURED):
            self.submit(1000 + number, 1, environment)
            self.finish(self.claim(), Resources(1, cpu, memory))

    @property
    def used(self) -> Resources:
        (runner,) = self.store.runners()
        return runner.used


@pytest.fixture(params=["memory", "sqlite"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    store: Store = (
        MemoryStore()
        if request.param == "memory"
        else open_store(f"sqlite:///{tmp_path / 'tasks.db'}")
    )
    yield Scene(store)
    store.close()


def test_requests_stand_until_enough_were_measured(scene: Scene) -> None:
    for number in range(MEASURED - 1):
        scene.submit(number, 1)
        scene.finish(scene.claim(), Resources(1, 0.4, GIB))
    scene.submit(100, 30)
    assert len(scene.claim()) == 2
    assert scene.used == Resources(2, 8.0, 8 * GIB)


def test_tasks_that_use_less_are_packed_closer_and_give_back_what_they_held(scene: Scene) -> None:
    scene.measure(0.4, GIB)
    scene.submit(0, 30)
    claimed = scene.claim()
    assert len(claimed) == 12  # by their memory: 1.25 GiB each of 16
    assert (scene.used.slots, scene.used.memory) == (12, 12 * GIB * 5 // 4)
    assert scene.used.cpu == pytest.approx(12 * 0.5)
    # What tasks hold stays what it was, whatever is measured meanwhile.
    scene.finish(claimed, Resources(1, 4.0, 4 * GIB))
    assert (scene.used.slots, scene.used.memory) == (0, 0)
    assert scene.used.cpu == pytest.approx(0.0, abs=1e-9)
    assert len(scene.claim()) == 1  # 5 cores of 8


def test_tasks_that_use_more_have_more_set_aside_but_never_more_than_there_is(scene: Scene) -> None:
    scene.measure(6.0, 100 * GIB)
    scene.submit(0, 3)
    assert len(scene.claim()) == 1
    assert scene.used == Resources(1, 7.5, 16 * GIB)


def test_environments_are_measured_apart(scene: Scene) -> None:
    scene.measure(0.4, GIB, "Other-v0")
    scene.submit(0, 30)
    assert len(scene.claim()) == 2


def test_what_is_not_measured_changes_nothing(scene: Scene) -> None:
    for number in range(2 * MEASURED):
        scene.submit(number, 1)
        scene.finish(scene.claim(), None)
    scene.submit(100, 30)
    assert len(scene.claim()) == 2


def test_why_says_what_is_set_aside(scene: Scene) -> None:
    scene.measure(0.4, GIB)
    scene.submit(0, 30)
    scene.claim()
    waiting = scene.store.find_task("j/29")
    assert waiting is not None
    assert (
        "is given cpu=0.5, memory=1280 MiB as tasks like it were measured"
        in (waits_for(scene.store, waiting, 100.0)[0])
    )


def _task(requests: Resources) -> Task:
    return Task("j/0", "j", "ann", 0, 0, "spec", 0, 1, 0.0, requests=requests)


@given(requests=AMOUNTS, uses=st.lists(AMOUNTS, max_size=20), capacity=AMOUNTS)
def test_whoever_fits_a_runner_fits_it_corrected(
    requests: Resources, uses: list[Resources], capacity: Resources
) -> None:
    peak = Peak("ann", "Env-v0")
    for used in uses:
        peak = measured(peak, used)
    taken = takes(_task(requests), peak, capacity)
    assert taken.slots == requests.slots
    if requests.fits(capacity):
        assert taken.fits(capacity)
    if len(uses) < MEASURED:
        assert taken == requests


@given(uses=st.lists(AMOUNTS, min_size=1, max_size=20))
def test_a_peak_is_the_last_use_at_least_and_the_highest_at_most(uses: list[Resources]) -> None:
    peak = Peak("ann", "Env-v0")
    for used in uses:
        peak = measured(peak, used)
    assert peak.count == len(uses)
    assert uses[-1].cpu <= peak.cpu <= max(used.cpu for used in uses)
    assert uses[-1].memory <= peak.memory <= max(used.memory for used in uses)
