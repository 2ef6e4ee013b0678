from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megaflow_server.orchestrator.lease_watch import EXPIRES, RUNNER_STOPS, LeaseWatch
from megaflow_server.orchestrator.records import Resources, Runner

GAPS = st.lists(st.floats(0, 40), min_size=1, max_size=12)


def runner(renewals: int) -> Runner:
    return Runner("r", Resources(4), renewals=renewals)


@given(renewed=GAPS, looks=GAPS, delay=st.floats(0, 20))
def test_nothing_expires_before_its_runner_has_stopped(
    renewed: list[float], looks: list[float], delay: float
) -> None:
    """Renewals are sent at some moments and seen `delay` later, by an observer that looks at others."""
    sent = [sum(renewed[: count + 1]) for count in range(len(renewed))]
    watch, now = LeaseWatch(), 0.0
    for pause in looks:
        now += pause
        arrived = [moment for moment in sent if moment + delay <= now]
        if watch.look([runner(len(arrived))], now):
            last = max(arrived, default=0.0)
            assert now - last >= EXPIRES > RUNNER_STOPS


def test_a_runner_that_renews_never_expires() -> None:
    watch = LeaseWatch()
    assert not any(watch.look([runner(count)], 20.0 * count) for count in range(20))


def test_one_that_does_not_expires_once_its_time_is_over_and_not_before() -> None:
    watch = LeaseWatch()
    assert watch.look([runner(3)], 100.0) == []
    assert watch.look([runner(3)], 129.9) == []
    assert watch.look([runner(3)], 130.0) == [runner(3)]


def test_a_new_observer_gives_everybody_full_time() -> None:
    assert LeaseWatch().look([runner(3)], 1e9) == []


def test_who_is_gone_is_forgotten() -> None:
    watch = LeaseWatch()
    watch.look([runner(3)], 0.0)
    watch.look([], 10.0)
    assert watch.look([runner(3)], 40.0) == []
