"""Rollouts for training, through a real server and its runner."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import megaflow
from commands import Serve
from leftovers import Place
from megaflow.errors import BudgetExhausted, InvalidArgument
from megaflow.groups import RolloutGroup

TESTS = str(Path(__file__).parent.parent)
MODELS = {"policy": "acting"}


# A call of the model `dear` costs 1 USD.
CONFIG = """\
[models.dear]
kind = "scripted"
answers = ["yes"]
repeat = true
price = { input_per_million = 0.0, output_per_million = 1_000_000.0 }
"""


@pytest.fixture
def address(serve: Serve, place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("PYTHONPATH", TESTS)
    config = place.folder / "megaflow.toml"
    config.write_text(CONFIG)
    address, store = f"unix:{place.folder / 's.sock'}", f"sqlite:///{place.folder / 'tasks.db'}"
    command = ["--listen", address, "--store", store, "--config", str(config)]
    served = serve(*command, "--import", "rollout_environments")
    yield served.addresses[0]
    assert served.end() == 0


def check(group: RolloutGroup, size: int) -> None:
    assert group.complete
    assert len(group.results) == size
    assert set(group.rewards) <= {0.0, 1.0}
    rows = group.rows()
    assert len({row.rollout_id for row in rows}) == size
    # One group for a trainer, and every row with the reward of its own rollout.
    assert len({row.group_id for row in rows}) == 1
    assert sorted(row.reward or 0.0 for row in rows) == sorted(one or 0.0 for one in group.rewards)
    assert all(row.logprobs and len(row.logprobs) == len(row.token_ids) for row in rows)


@pytest.mark.timeout(240)
def test_groups_are_whole_whatever_their_rollouts_suffer(address: str) -> None:
    tasks = [megaflow.Task("rollouts/Doubtful-v0", "nop") for _ in range(6)]
    with megaflow.Client(address) as client:
        groups = list(
            client.rollouts(tasks, agent="tool", models=MODELS, group_size=4, spare=20, seed=1)
        )
        (job,) = client.jobs()
        assert job.complete
        assert not job.cancelled
    assert sorted(group.index for group in groups) == [*range(6)]
    for group in groups:
        check(group, 4)
    # One in four has no reward, and others took their places.
    spoilt = [one for group in groups for one in group.spoilt]
    assert spoilt
    assert {one.failure.kind for one in spoilt if one.failure} == {"environment"}


@pytest.mark.timeout(240)
async def test_an_endless_supply_runs_no_further_ahead_than_it_may(address: str) -> None:
    begun: list[megaflow.Task] = []

    def tasks() -> Iterator[megaflow.Task]:
        while True:
            begun.append(megaflow.Task("rollouts/Doubtful-v0", "tool", models=MODELS))
            yield begun[-1]

    async def halved(group: RolloutGroup) -> list[float | None]:
        return [reward and reward / 2 for reward in group.rewards]

    async with megaflow.AsyncClient(address) as client:
        async with client.rollouts(
            tasks(), group_size=2, ahead=3, invalid="partial", group_reward=halved
        ) as rollouts:
            for taken in range(1, 6):
                group = await anext(rollouts)
                assert set(group.rewards) <= {0.0, 0.5}
                assert len(group.results) + len(group.spoilt) == 2
                assert len(begun) <= taken + 3
        (job,) = await client.jobs()
        assert job.cancelled


@pytest.mark.long
@pytest.mark.timeout(240)
def test_stragglers_are_not_waited_for(address: str) -> None:
    task = megaflow.Task("rollouts/Straggling-v0", "tool", models=MODELS)
    with (
        megaflow.Client(address) as client,
        client.rollouts([task] * 3, group_size=4, min_size=1, patience=1.0, seed=1) as rollouts,
    ):
        groups = list(rollouts)
    assert [bool(group.results) for group in groups] == [True] * 3
    assert not all(group.complete for group in groups)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_what_is_too_old_is_made_anew(address: str) -> None:
    task = megaflow.Task("rollouts/Doubtful-v0", "tool", models=MODELS)
    said = iter([0, 2, 1, 1])
    with (
        megaflow.Client(address) as client,
        client.rollouts(
            [task] * 3, group_size=2, ahead=1, seed=1, version=lambda: next(said), max_staleness=1
        ) as rollouts,
    ):
        groups = list(rollouts)
    # The second was old when it was done; in its place another of the same task came.
    assert [group.index for group in groups] == [0, 1, 2]
    assert rollouts.stale == 1
    assert groups[0].oldest_version() == 0
    assert all(one.task_id.partition("/")[2][0] != "1" for one in groups[1].results)


def test_what_are_no_tasks_or_options_is_told(address: str) -> None:
    with megaflow.Client(address) as client:
        with pytest.raises(InvalidArgument, match="max_staleness=-1"):
            client.rollouts([], version=lambda: 0, max_staleness=-1)
        with pytest.raises(InvalidArgument, match="give both"):
            client.rollouts([], max_staleness=1)
        with pytest.raises(InvalidArgument, match="ahead=0"):
            client.rollouts([], ahead=0)
        with pytest.raises(InvalidArgument, match="tasks: 'CartPole-v1'"):
            next(client.rollouts(["CartPole-v1"]))  # type: ignore[list-item]
        few = client.rollouts(
            [megaflow.Task("CartPole-v1", "nop")], group_size=2, group_reward=lambda _: [1.0]
        )
        with pytest.raises(InvalidArgument, match="gave 1 rewards for a group of 2"):
            next(few)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_groups_that_are_done_are_handed_on_before_the_money_is_gone(address: str) -> None:
    task = megaflow.Task("rollouts/Doubtful-v0", "asker", models={"policy": "dear"})
    taken: list[RolloutGroup] = []
    with (
        megaflow.Client(address) as client,
        client.rollouts(
            itertools.repeat(task), group_size=2, ahead=2, spare=9, max_cost=20.0
        ) as groups,
        pytest.raises(BudgetExhausted, match=r"max_cost=20\.0: spent"),
    ):
        taken.extend(groups)  # for ever
    assert taken
    assert all(group.complete for group in taken)
    with megaflow.Client(address) as client:
        (job,) = client.jobs()
    assert job.spent
    assert job.cancelled
