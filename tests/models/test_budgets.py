"""What calls cost, and budgets that refuse them: any calls in any order, on a virtual clock."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from megaflow.calls import Allowance, Budget, Price, Rate
from megaflow.calls.budgets import Charge, begin
from megaflow.errors import BudgetExhausted, InvalidArgument, ResourceExhausted
from megaflow.generation import Usage

PRICE = Price(0.15, 0.6)
counts = st.integers(0, 10**7)
prices = st.integers(0, 10**8).map(lambda micro: micro / 10**6)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class TestPrices:
    @given(prices, prices, counts, counts)
    def test_a_cost_is_exact(self, asked: float, said: float, prompt: int, answer: int) -> None:
        cost = Price(asked, said).cost(Usage(prompt, answer))
        exact = Fraction(repr(asked)) * prompt + Fraction(repr(said)) * answer
        assert cost is not None
        assert Fraction(cost) == exact / 10**6

    def test_what_is_cached_has_a_price_of_its_own(self) -> None:
        usage = Usage(1_000_000, 0, cached_tokens=400_000)
        assert Price(1.0, 9.0, 0.5).cost(usage) == Decimal("0.8")
        assert Price(1.0, 9.0).cost(usage) == 1
        assert Price(1.0, 9.0, 0.0).cost(Usage(10, 0, cached_tokens=99)) == 0

    def test_what_is_not_known_is_not_free(self) -> None:
        assert PRICE.cost(None) is None

    @pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
    def test_a_price_is_a_number(self, value: float) -> None:
        with pytest.raises(InvalidArgument, match="output_per_million"):
            Price(1.0, value)


class Calls(RuleBasedStateMachine):
    """A task's budget within its tenant's of a day, against plain sums."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.task = Budget(
            "task t", Allowance(calls=9, tokens=600, cost=0.0002, seconds=50), self.clock
        )
        self.tenant = Budget("tenant a", Allowance(cost=0.0003), self.clock, period=100)
        self.under_way: list[Charge] = []
        self.begun = self.tokens = self.unknown = 0
        self.cost = Decimal(0)
        self.day = Decimal(0)
        self.window = 10

    def allowed(self) -> bool:
        return (
            self.begun < 9
            and self.tokens < 600
            and self.cost < Decimal("0.0002")
            and self.clock.now < 1050
            and self.day < Decimal("0.0003")
        )

    @rule(seconds=st.sampled_from([1, 10, 30]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        if (window := int(self.clock.now // 100)) != self.window:
            self.window, self.day = window, Decimal(0)

    @rule()
    def begin(self) -> None:
        if not self.allowed():
            with pytest.raises(BudgetExhausted):
                begin([self.task, self.tenant], "m", priced=True)
            return
        self.under_way.append(begin([self.task, self.tenant], "m", priced=True))
        self.begun += 1

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), prompt=st.integers(0, 300), answer=st.integers(0, 200))
    def end(self, data: st.DataObject, prompt: int, answer: int) -> None:
        charge = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        usage = Usage(prompt, answer)
        cost = PRICE.cost(usage)
        assert cost is not None
        for _ in range(2):  # however often it is told
            charge.end(usage, cost)
        self.tokens += prompt + answer
        self.cost += cost
        self.day += cost

    @precondition(lambda self: self.under_way)
    @rule()
    def end_unknown(self) -> None:
        self.under_way.pop().end(None, None)
        self.unknown += 1

    @invariant()
    def sums_are_those_of_the_calls(self) -> None:
        assert (self.task.calls, self.task.tokens) == (self.begun, self.tokens)
        assert (self.task.cost, self.task.unknown) == (self.cost, self.unknown)


TestCalls = Calls.TestCase


def test_a_call_that_one_budget_refuses_counts_in_none() -> None:
    clock = Clock()
    job = Budget("job j", Allowance(calls=5), clock)
    task = Budget("task t", Allowance(calls=0), clock)
    with pytest.raises(BudgetExhausted, match=r"task t has spent its 0 calls \(0\)"):
        begin([job, task], "m", priced=True)
    assert job.calls == 0


def test_models_without_a_price_are_refused_where_money_is_limited() -> None:
    clock = Clock()
    with pytest.raises(BudgetExhausted, match="model 'm' has no price"):
        begin([Budget("job j", Allowance(cost=5), clock)], "m", priced=False)
    begin([Budget("job j", Allowance(calls=5), clock)], "m", priced=False)
    begin([Budget("job j", Allowance(cost=5, unpriced=True), clock)], "m", priced=False)


def test_a_budget_of_a_day_says_when_the_next_begins() -> None:
    clock = Clock(86_400 * 3 + 80_000)
    day = Budget("tenant a", Allowance(calls=1), clock, period=86_400)
    begin([day], "m", priced=True)
    with pytest.raises(BudgetExhausted) as refused:
        begin([day], "m", priced=True)
    assert refused.value.retry_after == 6_400
    clock.now += 6_400
    begin([day], "m", priced=True)


def test_the_seconds_left_are_those_of_the_budget_that_has_fewest() -> None:
    clock = Clock()
    budgets = [Budget(name, Allowance(seconds=s), clock) for name, s in (("a", 9.0), ("b", 5.0))]
    charge = begin([*budgets, Budget("c", Allowance(), clock)], "m", priced=True)
    clock.now += 2
    late = charge.first_late()
    assert late is not None
    assert (late[0], late[1].whose) == (3.0, "b")
    assert begin([], "m", priced=True).first_late() is None


@pytest.mark.parametrize("name", ["calls", "tokens", "cost", "seconds"])
def test_a_limit_is_no_less_than_nothing(name: str) -> None:
    limits: dict[str, Any] = {name: -1}
    with pytest.raises(InvalidArgument, match=name):
        Allowance(**limits)


@given(
    st.floats(0.5, 6000),
    st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_no_more_begin_than_the_rate_and_a_burst_allow(
    per_minute: float, waits: list[float]
) -> None:
    clock = Clock(0.0)
    rate = Rate("tenant a", per_minute, clock)
    for begun, seconds in enumerate(waits, start=1):
        clock.now += seconds
        try:
            rate.take()
        except ResourceExhausted as refused:
            # Who comes back when it was told to is let in.
            clock.now += refused.retry_after or 0.0
            rate.take()
        assert begun <= max(1.0, per_minute / 10) + clock.now * per_minute / 60 + 1e-6


def test_a_rate_that_refuses_counts_in_no_budget() -> None:
    clock = Clock()
    rate, job = Rate("tenant a", 60, clock), Budget("job j", Allowance(calls=99), clock)
    for _ in range(6):
        begin([job], "m", priced=True, rate=rate)
    with pytest.raises(ResourceExhausted, match="tenant a may begin 60 calls a minute") as refused:
        begin([job], "m", priced=True, rate=rate)
    assert refused.value.retry_after == pytest.approx(1.0)
    assert job.calls == 6
