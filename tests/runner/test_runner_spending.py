"""What jobs may cost, as one of several runners knows it."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from megaflow.calls.budgets import begin
from megaflow.generation import Usage
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.runner.spending import AttemptSpending, JobBudgets


def attempt(number: int, spent: float, max_cost: float = 1.0) -> pb.Attempt:
    budget = pb.JobBudget(max_cost=max_cost, spent=spent)
    return pb.Attempt(task_id=f"job/{number}", fence=1, budget=budget)


def spend(spending: AttemptSpending, cost: str | None) -> None:
    charge = begin(spending.budgets, "m", priced=True)
    charge.end(Usage(1, 1), None if cost is None else Decimal(cost))


def test_attempts_of_a_job_spend_together_and_each_for_itself() -> None:
    budgets = JobBudgets()
    one, other = (budgets.begin(attempt(number, 0.0)) for number in range(2))
    spend(one, "0.4")
    spend(other, "0.5")
    assert (one.cost(), other.cost()) == (pb.Cost(known=0.4), pb.Cost(known=0.5))
    assert other.over() is None
    spend(one, None)
    assert one.cost() == pb.Cost(known=0.4, unknown=1)
    spend(other, "0.1")
    assert (one.over() or "").startswith("max_cost: job job has spent its 1.0 USD")
    assert budgets.begin(attempt(2, 0.0)).over() is not None
    assert budgets.begin(pb.Attempt(task_id="other/0")).over() is None


def test_what_others_have_spent_counts_and_nothing_twice() -> None:
    budgets = JobBudgets()
    one = budgets.begin(attempt(0, 0.0))
    spend(one, "0.3")
    one.end()
    # The server may have heard of that one, or not yet.
    two = budgets.begin(attempt(1, 0.3))
    spend(two, "0.3")
    three = budgets.begin(attempt(2, 0.3))
    assert three.over() is None
    spend(three, "0.3")
    assert three.over() is None  # 0.9
    assert budgets.begin(attempt(3, 0.4)).over() is not None  # 0.1 elsewhere


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), st.integers(0, 3), st.integers(1, 9)),
        st.tuples(st.just("elsewhere"), st.just(0), st.integers(1, 9)),
        st.tuples(st.sampled_from(["begin", "end", "hear"]), st.integers(0, 3), st.just(0)),
    ),
    max_size=40,
)


@given(actions=ACTIONS)
def test_a_job_is_never_stopped_early_and_its_own_runner_is_exact(
    actions: list[tuple[str, int, int]],
) -> None:
    budgets, limit = JobBudgets(), 1000
    running: dict[int, tuple[AttemptSpending, int]] = {}
    ended: list[int] = []
    own = elsewhere = heard = number = 0
    before = Decimal(0)
    for what, place, amount in actions:
        if what == "begin":
            running[number] = (budgets.begin(attempt(number, float(heard), limit)), 0)
            number += 1
        elif what == "elsewhere":  # an attempt of another runner has ended
            elsewhere += amount
            heard += amount
        elif what == "hear":  # the server hears of all that have ended here
            heard += sum(ended)
            ended.clear()
        elif running:
            key = sorted(running)[place % len(running)]
            spending, spent = running[key]
            if what == "spend":
                spend(spending, str(amount))
                running[key] = (spending, spent + amount)
                own += amount
            else:
                spending.end()
                ended.append(spent)
                del running[key]
        if number:
            known = budgets.begin(attempt(10**6, float(heard), limit)).budgets[1].cost
            assert max(Decimal(own), before) <= known <= own + elsewhere
            before = known
            if not ended:
                assert known == own + elsewhere
