"""What calls cost stands in their records, and budgets that are spent end calls at the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from aiohttp import ClientSession

from megaflow.calls import Allowance, Budget, Price
from megaflow.generation import Event, Finish, Request, TextDelta, Usage
from megaflow.model import Model
from megaflow_adapters.models.echo import EchoModel
from model_rig import gateway

CHAT = "/v1/chat/completions"
PRICE = Price(1.0, 2.0)


def body(**more: Any) -> dict[str, Any]:
    return {"model": "policy", "messages": [{"role": "user", "content": "hi"}], **more}


def budget(whose: str = "task t", **limits: Any) -> Budget:
    return Budget(whose, Allowance(**limits), time.monotonic)


class Counted(Model):
    """Says that it counted so many tokens; None: says nothing. Then waits, where it is told to."""

    name = "counted"

    def __init__(self, usage: Usage | None, wait: float = 0.0) -> None:
        self.usage = usage
        self.wait = wait
        self.asked = 0

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        self.asked += 1
        yield TextDelta("x")
        await asyncio.sleep(self.wait)
        yield Finish("stop", self.usage)


async def test_a_record_says_what_its_call_cost() -> None:
    spent = budget()
    async with gateway() as rig:
        models = {"policy": Counted(Usage(10, 5)), "grader": Counted(Usage(1, 1))}
        token = rig.open(
            models | {"user": Counted(None)},
            prices={"policy": PRICE, "user": PRICE},
            budgets=[spent],
        )
        for role in ("policy", "grader", "user"):
            assert (await rig.post(CHAT, body(model=role), token))[0] == 200
        costs = {record.role: record.cost for record in rig.records["r"]}
        # Without a price, or without a count, it is not known, and is not 0.
        assert costs == {"policy": 0.00002, "grader": None, "user": None}
    assert (spent.calls, spent.tokens, float(spent.cost), spent.unknown) == (3, 17, 0.00002, 2)


async def test_never_more_calls_than_there_may_be_however_many_come_at_once() -> None:
    model, job = Counted(Usage(1, 1), wait=0.01), budget("job j", calls=20)
    async with gateway() as rig:
        tokens = [rig.open({"policy": model}, f"r{n}", budgets=[job]) for n in range(60)]
        answers = await asyncio.gather(*(rig.post(CHAT, body(), token) for token in tokens))
    assert sorted(status for status, _, _ in answers) == [200] * 20 + [402] * 40
    assert model.asked == 20
    told = {answer["error"]["message"] for status, answer, _ in answers if status == 402}
    assert told == {"job j has spent its 20 calls (20)"}


async def test_money_that_is_spent_is_spent_for_all_sessions_of_its_budget() -> None:
    job = budget("job j", cost=0.00002)
    async with gateway() as rig:
        model = {"policy": Counted(Usage(10, 5))}
        one, two = (
            rig.open(model, name, prices={"policy": PRICE}, budgets=[job, budget(f"task {name}")])
            for name in ("one", "two")
        )
        assert (await rig.post(CHAT, body(), one))[0] == 200
        status, answer, headers = await rig.post(CHAT, body(), two)
        assert (status, answer["error"]["type"]) == (402, "insufficient_quota")
        assert answer["error"]["code"] == "BudgetExhausted"
        assert "job j has spent its 0.00002 USD (0.00002)" in answer["error"]["message"]
        assert "Retry-After" not in headers
        status, answer, _ = await rig.post("/v1/messages", {**body(), "max_tokens": 9}, two)
        assert (status, answer["error"]["type"]) == (402, "billing_error")


async def test_a_model_without_a_price_is_refused_where_money_is_limited() -> None:
    model = Counted(Usage(1, 1))
    async with gateway() as rig:
        token = rig.open({"policy": model}, budgets=[budget(cost=1.0)])
        status, answer, _ = await rig.post(CHAT, body(), token)
        assert (status, model.asked) == (402, 0)
        assert "model 'counted' has no price" in answer["error"]["message"]
        token = rig.open({"policy": model}, "told", budgets=[budget(cost=1.0, unpriced=True)])
        assert (await rig.post(CHAT, body(), token))[0] == 200


async def test_a_call_under_way_ends_when_the_time_is_spent() -> None:
    async with gateway() as rig:
        spent = budget(seconds=0.1)
        token = rig.open({"policy": EchoModel(delay=3600)}, budgets=[spent])
        began = time.monotonic()
        status, answer, _ = await rig.post(CHAT, body(), token)
        assert time.monotonic() - began < 5
        assert (status, answer["error"]["message"]) == (402, "task t has spent its 0.1 seconds")
        (record,) = rig.records["r"]
        assert (record.status, record.response, record.cost) == (402, None, None)
        assert (await rig.post(CHAT, body(), token))[0] == 402
        assert len(rig.records["r"]) == 1  # what did not begin is no call
        assert (spent.calls, spent.unknown) == (1, 1)


async def test_a_stream_that_the_time_ends_has_no_end() -> None:
    async with gateway() as rig:
        token = rig.open({"policy": Counted(None, wait=3600)}, budgets=[budget(seconds=0.2)])
        async with (
            ClientSession() as client,
            client.post(f"{rig.url}/sessions/{token}{CHAT}", json=body(stream=True)) as response,
        ):
            text = await response.text()
        assert '"content":"x"' in text
        assert "[DONE]" not in text
        assert "has spent its 0.2 seconds" in text
        (record,) = rig.records["r"]
        assert (record.status, record.finish_reason) == (402, "aborted")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_ends_in_time_is_left_alone(stream: bool) -> None:
    async with gateway() as rig:
        token = rig.open({"policy": EchoModel()}, budgets=[budget(seconds=600)])
        async with (
            ClientSession() as client,
            client.post(f"{rig.url}/sessions/{token}{CHAT}", json=body(stream=stream)) as response,
        ):
            assert response.status == 200
        assert [record.status for record in rig.records["r"]] == [200]
