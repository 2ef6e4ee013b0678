"""`megaflow bench rollouts`, as a command, and whether it would notice what it looks for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from leftovers import place
from megaflow.calls import Row
from megaflow.task import Result
from megaflow_server.bench.rollouts import Figures, check
from megaflow_server.bench.rollouts_world import expected

COMMAND = ("-m", "megaflow_server", "bench", "rollouts", "--rollouts", "32", "--samples", "96")
WRONG = ("false_zeros", "wrong_rewards", "split_groups", "lost", "crossed", "masked")


@pytest.mark.long
def test_rewards_and_rows_are_right_though_attempts_fail() -> None:
    with place() as here:
        result = json.loads(here.run(*COMMAND, "--kills", "0", "--faults", "0.3", "--json"))
        here.assert_nothing_left()
    assert result["rewarded"] == 96
    assert result["spoilt"].keys() == {"environment", "model"}
    assert {name: result[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


def result(seed: int) -> Result:
    return Result(
        task_id=f"job/{seed}",
        index=0,
        sample=0,
        group="0",
        state="succeeded",
        valid=True,
        reward=expected(seed).reward,
        rewards={},
        failure=None,
        trajectory="",
        seed=seed,
        retries=0,
        done=1,
    )


def row(seed: int) -> Row:
    wanted = expected(seed)
    return Row(
        rollout_id=f"job/{seed}",
        group_id="0",
        branch=0,
        token_ids=wanted.token_ids,
        loss_mask=wanted.loss_mask,
        logprobs=wanted.logprobs,
        weight_versions=list(wanted.weight_versions),
        prompt_length=1,
        reward=wanted.reward,
        calls=(),
        finish_reason="stop",
    )


def counted(results: list[Result], rows: list[Row]) -> dict[str, int]:
    figures = Figures()
    check(results, rows, 2, figures)
    return {name: getattr(figures, name) for name in WRONG if getattr(figures, name)}


# Of four numbers the model knows three; these are known ones.
ONE, TWO = [seed for seed in range(20) if expected(seed).reward == 1.0][:2]


def test_a_whole_group_has_nothing_wrong() -> None:
    assert counted([result(ONE), result(TWO)], [row(ONE), row(TWO)]) == {}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("masked", {"loss_mask": [1] * 34}),
        ("masked", {"logprobs": [0.0] * 34}),
        ("masked", {"weight_versions": [None] * 34}),
        ("crossed", {"token_ids": row(ONE).token_ids}),
        ("split_groups", {"group_id": "1"}),
    ],
)
def test_a_wrong_row_is_counted(name: str, change: dict[str, Any]) -> None:
    rows = [row(ONE), replace(row(TWO), **change)]
    assert counted([result(ONE), result(TWO)], rows) == {name: 1}


def test_wrong_rewards_and_missing_rows_are_counted() -> None:
    both, rows = [result(ONE), result(TWO)], [row(ONE), row(TWO)]
    assert counted([both[0], replace(both[1], reward=0.0)], rows) == {"false_zeros": 1}
    assert counted([both[0], replace(both[1], reward=2.0)], rows) == {"wrong_rewards": 1}
    assert counted(both, rows[:1]) == {"lost": 1}
    assert counted(both, [*rows, rows[1]]) == {"lost": 1}
    assert counted(both[:1], rows[:1]) == {"split_groups": 1}
    stranger = replace(rows[1], rollout_id="job/x")
    assert counted(both, [rows[0], stranger]) == {"lost": 1, "crossed": 1}
