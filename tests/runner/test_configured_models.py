"""Attempts whose models stand in a configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from attempt_rig import Rig
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.trajectory import ModelCall, TrajectoryReader
from megaflow_server.models.pins import pin, put
from megaflow_server.models.tables import ModelTable
from megaflow_server.runner.configured import ConfiguredModels

# A dollar for each token: of the prompt `hello` and of the answer, in bytes.
PRICE = {"input_per_million": 1e6, "output_per_million": 1e6}
ASKED = {"models": {"policy": "m"}}


def table(kind: str = "scripted", **settings: Any) -> ModelTable:
    given = {"answers": ["ok"], **settings} if kind == "scripted" else settings
    return ModelTable.model_validate({"kind": kind, **given})


def has(rig: Rig, pins: Path | None = None, **tables: ModelTable) -> None:
    rig.tools = dataclasses.replace(rig.tools, models=ConfiguredModels(tables, pins))


def call(outcome: pb.Outcome) -> ModelCall:
    (found,) = (one for one in TrajectoryReader(outcome.trajectory) if isinstance(one, ModelCall))
    return found


async def test_its_calls_cost_what_its_price_says(rig: Rig) -> None:
    has(rig, m=table(price=PRICE))
    outcome = await rig.run("Counting", "asking", **ASKED)
    assert outcome.valid, outcome.failure
    cost = call(outcome).call["cost"]
    assert cost > 0
    assert outcome.cost == pb.Cost(known=cost)


async def test_what_has_no_price_has_no_cost_and_is_not_0(rig: Rig) -> None:
    has(rig, m=table())
    outcome = await rig.run("Counting", "asking", **ASKED)
    assert call(outcome).call["cost"] is None
    assert outcome.cost == pb.Cost(unknown=1)
    assert not (await rig.run("Counting", "ones")).HasField("cost")


async def test_a_configured_name_goes_before_an_installed_one(rig: Rig) -> None:
    has(rig, echo=table())
    outcome = await rig.run("Counting", "asking", models={"policy": "echo"})
    assert call(outcome).call["response"]["content"] == "ok"


async def test_each_attempt_has_a_script_of_its_own_and_other_models_are_shared(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = {"base_urls": ["http://127.0.0.1:1/v1"], "model": "m"}
    has(rig, m=table(), far=table("openai", **url))
    models = rig.tools.models
    shared, own = ([models.get(name) for _ in range(2)] for name in ("far", "m"))
    assert shared[0] is shared[1]
    assert None not in own
    assert own[0] is not own[1]
    assert shared[0] is not None
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    monkeypatch.setattr(shared[0].model, "close", close)
    assert (await rig.run("Counting", "ones", models={"policy": "far"})).valid
    assert not closed
    monkeypatch.undo()
    await models.close()


async def test_a_name_that_there_is_not_is_told_with_configured_ones(rig: Rig) -> None:
    has(rig, grader=table())
    outcome = await rig.run("Counting", "asking", models={"policy": "gradr"})
    assert outcome.failure.kind == "environment"
    assert "did you mean 'grader'? There are" in outcome.failure.reason


async def test_a_table_that_is_wrong_names_the_key(rig: Rig) -> None:
    has(rig, m=table(answer="x"))
    outcome = await rig.run("Counting", "asking", **ASKED)
    assert "models.m.answer: unknown key; did you mean answers?" in outcome.failure.reason


async def test_a_pin_is_what_it_was_made_of(rig: Rig, tmp_path: Path) -> None:
    made = table(answers=["then"], price=PRICE)
    put(tmp_path / "pins", [made])
    has(rig, tmp_path / "pins", m=table(answers=["now"]))
    outcome = await rig.run("Counting", "asking", models={"policy": pin("m", made)})
    assert call(outcome).call["response"]["content"] == "then"
    assert outcome.cost.known > 0


async def test_what_a_job_may_cost_ends_calls_and_begins_no_attempt(rig: Rig) -> None:
    has(rig, m=table(price=PRICE))
    told = pb.JobBudget(max_cost=1.0, spent=0.5)
    first = await rig.run("Counting", "asking", budget=told, **ASKED)
    assert first.valid  # it passes the limit by its one call
    second = await rig.run("Counting", "asking", budget=told, **ASKED)
    assert (second.valid, second.failure.kind, second.failure.phase) == (
        False,
        "cancelled",
        "starting",
    )
    assert second.failure.reason.startswith("max_cost: job job has spent its 1.0 USD")
    assert (second.trajectory, second.cost) == ("", pb.Cost())


async def test_one_that_was_refused_a_call_has_no_reward(rig: Rig) -> None:
    has(rig, m=table(price=PRICE, answers=["a", "b"]))
    told = pb.JobBudget(max_cost=1.0)
    outcome = await rig.run("Counting", "askingtwice", budget=told, **ASKED)
    assert (outcome.valid, outcome.failure.kind) == (False, "cancelled")
    assert outcome.cost.known > 1.0


async def test_a_model_without_a_price_is_not_called_at_a_limited_cost(rig: Rig) -> None:
    has(rig, m=table())
    outcome = await rig.run("Counting", "asking", budget=pb.JobBudget(max_cost=1.0), **ASKED)
    assert (outcome.valid, outcome.failure.kind) == (False, "environment")
    assert "model 'm' has no price" in outcome.failure.reason


async def test_unless_the_job_says_so(rig: Rig) -> None:
    has(rig, m=table())
    told = pb.JobBudget(max_cost=1.0, unpriced=True)
    outcome = await rig.run("Counting", "asking", budget=told, **ASKED)
    assert (outcome.valid, outcome.cost) == (True, pb.Cost(unknown=1))
