"""A runner's lease on a virtual clock: never held for longer than the orchestrator waits."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from megaflow_server.runner.lease import Lease

RENEW, STOP = 8.0, 25.0


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def lease_at(clock: Clock) -> Lease:
    return Lease(clock.now, renew=RENEW, stop=STOP, clock=clock)


def test_it_ends_as_long_after_the_sending_of_the_last_answered_renewal() -> None:
    clock = Clock()
    lease = lease_at(clock)
    clock.now += RENEW
    sent = clock.now
    clock.now += 10.0
    lease.answered(sent)
    clock.now = sent + STOP - 0.1
    assert lease.held
    clock.now = sent + STOP
    assert not lease.held


def test_an_answer_after_the_end_brings_nothing_back() -> None:
    clock = Clock()
    lease = lease_at(clock)
    clock.now += STOP
    lease.answered(clock.now - 1.0)
    assert not lease.held


def test_renewals_come_in_time_and_again_soon_where_they_fail() -> None:
    clock = Clock()
    lease = lease_at(clock)
    assert lease.wait() == RENEW
    clock.now += RENEW
    assert lease.wait() == 0.0
    assert lease.patience() == RENEW / 2
    lease.failed()
    assert 0.0 < lease.wait() <= 1.0


def test_one_that_is_lost_is_over() -> None:
    lease = lease_at(Clock())
    lease.lose()
    assert not lease.held


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 12.0), st.floats(0.0, 30.0), st.sampled_from(["answered", "failed"])
        ),
        max_size=30,
    )
)
def test_whatever_happens_it_is_never_held_too_long(
    steps: list[tuple[float, float, str]],
) -> None:
    clock = Clock()
    lease = lease_at(clock)
    last, over = clock.now, False
    for pause, took, what in steps:
        clock.now += pause
        sent = clock.now
        clock.now += took
        in_time = clock.now < last + STOP and not over
        if what == "answered":
            lease.answered(sent)
            if in_time:
                last = max(last, sent)
        else:
            lease.failed()
        over = over or (not in_time and clock.now >= last + STOP)
        assert lease.held == (not over)
        assert lease.wait() <= RENEW + 1e-6
