"""Sessions of models that are opened over HTTP: whose they are, what they may spend, what is recorded of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from megaflow.calls import CallRecord, Price, rows
from megaflow.errors import Unauthenticated
from megaflow.model import Model
from megaflow.trajectory import End, ModelCall, Start, TrajectoryReader, find
from megaflow_adapters.models.echo import EchoModel
from megaflow_adapters.models.vllm import VllmModel
from megaflow_server.gateway.auth import ADMIN, READ, SESSIONS, Principal
from megaflow_server.models import app as calling
from megaflow_server.models import opening, weights
from megaflow_server.models.catalogue import ServedModel
from megaflow_server.models.recording import Recorder
from megaflow_server.models.requests import read
from megaflow_server.models.service import ModelService
from megaflow_server.trajectories import TrajectoryStore
from model_rig import until
from model_upstream import serving, upstream

CHAT = "/v1/chat/completions"
BODY = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}
PRINCIPALS = {
    "ann": Principal("ann", frozenset({SESSIONS})),
    "bob": Principal("bob", frozenset({SESSIONS})),
    "eve": Principal("eve", frozenset({READ})),
    "root": Principal("root", frozenset({ADMIN})),
}


def principal(token: str) -> Principal:
    if token not in PRINCIPALS:
        raise Unauthenticated("this server does not know the token")
    return PRINCIPALS[token]


@dataclass
class Service:
    url: str
    service: ModelService
    folder: Path
    holders: set[str] = field(default_factory=lambda: {"ann", "bob"})

    async def ask(
        self, method: str, path: str, token: str = "", body: Any = None
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            ClientSession() as client,
            client.request(method, self.url + path, json=body, headers=headers) as response,
        ):
            return response.status, await response.json()

    async def open(self, owner: str = "ann", **more: Any) -> Any:
        body = {"rollout_id": "r", "models": {"policy": "echo"}, **more}
        status, answer = await self.ask("POST", "/sessions", owner, body)
        assert status == 201, answer
        return answer

    async def call(self, opened: Any) -> tuple[int, Any]:
        return await self.ask("POST", f"/sessions/{opened['token']}{CHAT}", body=BODY)


@asynccontextmanager
async def service(
    folder: Path, *, delay: float = 0.0, engine: Model | None = None, **more: Any
) -> AsyncIterator[Service]:
    holders = {"ann", "bob"}
    served = {
        "echo": ServedModel("echo", "echo", EchoModel(delay=delay), Price(1.0, 1.0)),
        "free": ServedModel("free", "echo", EchoModel(), None),
    }
    if engine is not None:
        served["engine"] = ServedModel("engine", "vllm", engine, None)
    recorder = Recorder(TrajectoryStore(str(folder)))
    async with ModelService(served, holders=lambda: holders, recorder=recorder, **more) as models:
        app = web.Application()
        calling.add_routes(app, models.sessions)
        opening.add_routes(app, models, principal)
        weights.add_routes(app, models, principal)
        async with serving(app) as url:
            yield Service(url, models, folder, holders)


async def test_a_session_is_opened_called_looked_at_and_ended(tmp_path: Path) -> None:
    async with service(tmp_path) as here:
        opened = await here.open(group_id="g", attempt=2)
        assert opened["base_urls"]["openai"] == f"{here.url}/sessions/{opened['token']}/v1"
        assert opened["base_urls"]["anthropic"] == f"{here.url}/sessions/{opened['token']}"
        for _ in range(2):
            assert (await here.call(opened))[0] == 200
        # Recorded, and to be read, before the answer was handed on.
        path = opened["trajectory"]
        assert sum(isinstance(each, ModelCall) for each in TrajectoryReader(path)) == 2
        status, told = await here.ask("GET", f"/sessions/{opened['token']}", "ann")
        assert (status, told["calls"], told["attempt"]) == (200, 2, 2)
        assert told["cost"] == told["known_cost"] == pytest.approx(told["tokens"] / 1e6)
        assert (await here.ask("DELETE", f"/sessions/{opened['token']}", "ann"))[0] == 200
        assert (await here.call(opened))[0] == 401
    trajectory = TrajectoryReader(path)
    start, *called, end = trajectory
    assert isinstance(start, Start)
    assert (start.attempt_id, start.group_id, start.attempt) == ("r/2", "g", 2)
    records = [CallRecord.from_dict(each.call) for each in called if isinstance(each, ModelCall)]
    assert [record.group_id for record in records] == ["g", "g"]
    assert len(rows(records)) == 2
    assert end == End(time=end.time, status="ended")
    assert not trajectory.dropped


async def test_what_is_somebody_elses_is_neither_seen_nor_ended(tmp_path: Path) -> None:
    async with service(tmp_path) as here:
        opened = await here.open("ann")
        for method in ("GET", "DELETE"):
            status, answer = await here.ask(method, f"/sessions/{opened['token']}", "bob")
            assert (status, answer["error"]["code"]) == (401, "Unauthenticated")
        # Of the same name, and of a later attempt: another principal's supersedes nothing.
        await here.open("bob", attempt=5)
        assert (await here.call(opened))[0] == 200


async def test_a_newer_attempt_supersedes_and_its_trajectory_says_so(tmp_path: Path) -> None:
    async with service(tmp_path) as here:
        old = await here.open(attempt=1)
        new = await here.open(attempt=2)
        assert (await here.call(old))[0] == 403
        assert (await here.call(new))[0] == 200
        body = {"rollout_id": "r", "models": {"policy": "echo"}, "attempt": 1}
        status, answer = await here.ask("POST", "/sessions", "ann", body)
        assert (status, answer["error"]["code"]) == (403, "Superseded")
    assert len(find(tmp_path)) == 2  # what was refused left none
    *_, end = TrajectoryReader(old["trajectory"])
    assert isinstance(end, End)
    assert end.status == "superseded"


async def test_who_may_not_have_sessions_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path) as here:
        opened = await here.open()
        body = {"rollout_id": "x", "models": {"policy": "echo"}}
        # A session's own token opens no others: whoever has it has what it is for.
        for token, status in (("", 401), ("mallory", 401), (opened["token"], 401), ("eve", 403)):
            assert (await here.ask("POST", "/sessions", token, body))[0] == status
        assert len(here.service.sessions) == 1


async def test_sessions_end_with_the_last_token_of_their_owner(tmp_path: Path) -> None:
    async with service(tmp_path, delay=3600) as here:
        opened = await here.open("ann")
        others = await here.open("bob")
        call = asyncio.create_task(here.call(opened))
        await until(lambda: bool(here.service.sessions.find(opened["token"]).cut))
        here.holders.discard("ann")
        status, answer = await asyncio.wait_for(call, 10)
        assert (status, answer["error"]["code"]) == (401, "Unauthenticated")
        assert len(here.service.sessions) == 1
        here.service.sessions.find(others["token"])


async def test_a_tenant_spends_no_more_in_a_day_than_it_may(tmp_path: Path) -> None:
    async with service(tmp_path, daily={"ann": 0.000005}) as here:
        one = await here.open("ann")
        two = await here.open("ann", rollout_id="another")
        assert (await here.call(one))[0] == 200
        status, answer = await here.call(two)
        assert (status, answer["error"]["code"]) == (402, "BudgetExhausted")
        assert "tenant ann has spent its" in answer["error"]["message"]
        free = await here.open("ann", rollout_id="free", models={"policy": "free"})
        status, answer = await here.call(free)
        assert "has no price" in answer["error"]["message"]
        for attempt in range(2):
            opened = await here.open("bob", attempt=attempt)
            assert (await here.call(opened))[0] == 200


async def test_there_are_never_more_sessions_than_there_may_be(tmp_path: Path) -> None:
    async with service(tmp_path, most=5) as here:
        bodies = [{"rollout_id": f"r{n}", "models": {"policy": "echo"}} for n in range(20)]
        asked = (here.ask("POST", "/sessions", "ann", body) for body in bodies)
        answers = await asyncio.gather(*asked)
        assert sorted(status for status, _ in answers) == [201] * 5 + [429] * 15
        (told,) = {answer["error"]["message"] for status, answer in answers if status == 429}
        assert "max_sessions: this server has the 5 sessions" in told
        opened = next(answer for status, answer in answers if status == 201)
        assert (await here.ask("DELETE", f"/sessions/{opened['token']}", "ann"))[0] == 200
        await here.open()


async def test_who_goes_away_while_a_session_is_opened_leaves_none(tmp_path: Path) -> None:
    request = read(b'{"rollout_id": "r", "models": {"policy": "echo"}}')
    async with service(tmp_path) as here:
        opening_one = asyncio.create_task(here.service.open("ann", request))
        await asyncio.sleep(0)  # it writes what its trajectory begins with
        opening_one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening_one
        assert len(here.service.sessions) == 0
        assert (await here.call(await here.open()))[0] == 200
    for path in find(tmp_path):
        assert [*TrajectoryReader(path)][-1].kind == "end"


async def test_a_tenant_calls_no_faster_than_it_may(tmp_path: Path) -> None:
    async with service(tmp_path, rates={"ann": 10.0}) as here:
        one, two = await here.open("ann"), await here.open("ann", rollout_id="another")
        assert (await here.call(one))[0] == 200
        status, answer = await here.call(two)
        assert (status, answer["error"]["code"]) == (429, "ResourceExhausted")
        assert "tenant ann may begin 10 calls a minute" in answer["error"]["message"]
        bobs = await here.open("bob")
        for _ in range(3):
            assert (await here.call(bobs))[0] == 200


async def test_a_sessions_own_budget_and_sampling(tmp_path: Path) -> None:
    async with service(tmp_path) as here:
        opened = await here.open(
            models={"policy": "echo", "grader": "free"},
            budget={"calls": 2},
            sampling={"temperature": 0.5, "stop": ["x"]},
        )
        assert (await here.call(opened))[0] == 200
        body = {**BODY, "model": "grader"}
        path = f"/sessions/{opened['token']}{CHAT}"
        assert (await here.ask("POST", path, body=body))[0] == 200
        assert (await here.call(opened))[0] == 402
        _, told = await here.ask("GET", f"/sessions/{opened['token']}", "ann")
        assert told["cost"] is None  # a part is not all
        assert told["known_cost"] > 0
    called = [
        each.call for each in TrajectoryReader(opened["trajectory"]) if isinstance(each, ModelCall)
    ]
    assert [each["role"] for each in called] == ["policy", "grader"]
    assert called[0]["sampling"] == {"temperature": 0.5, "stop": ["x"]}
    assert (called[0]["cost"], called[1]["cost"]) == (pytest.approx(told["known_cost"]), None)


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (
            {"models": {"policy": "ecko"}},
            404,
            "'ecko' is no model of this server; did you mean 'echo'?",
        ),
        ({"models": {}}, 400, "models: "),
        ({"modls": {}}, 400, "modls: unknown field; did you mean models?"),
        ({"rollout_id": None}, 400, "rollout_id: "),
        ({"attempt": -1}, 400, "attempt: "),
        ({"lifetime": 1e9}, 400, "lifetime: "),
        ({"budget": {"calls": -1}}, 400, "calls = -1: give 0 or more"),
        ({"budget": {"call": 1}}, 400, "budget.call"),
        ({"sampling": {"heat": 1}}, 400, "sampling.heat"),
        ({"default_role": "grader"}, 400, "default_role: 'grader' is none of policy"),
    ],
)
async def test_a_wrong_request_is_told_with_its_field(
    tmp_path: Path, change: dict[str, Any], status: int, says: str
) -> None:
    async with service(tmp_path) as here:
        body = {"rollout_id": "r", "models": {"policy": "echo"}, **change}
        answer = await here.ask("POST", "/sessions", "ann", body)
        assert answer[0] == status
        assert says in answer[1]["error"]["message"]
        assert len(here.service.sessions) == 0


async def test_a_trainer_holds_calls_back_updates_weights_and_lets_go(tmp_path: Path) -> None:
    async with upstream() as engine:
        vllm = VllmModel(base_urls=(f"{engine.url}/v1",), model="m", weight_version=1)
        async with service(tmp_path, engine=vllm) as here:
            opened = await here.open(models={"policy": "engine"})
            held, _ = await here.ask("POST", "/models/engine/pause", "root", {"mode": "keep"})
            assert held == 200
            call = asyncio.create_task(here.call(opened))
            status, told = await here.ask(
                "POST", "/models/engine/weights", "root", {"version": 2, "path": "/w"}
            )
            assert (status, told["paused"], told["weight_version"]) == (200, True, 2)
            assert not call.done()
            assert (await here.ask("POST", "/models/engine/resume", "root"))[1]["paused"] is False
            assert (await asyncio.wait_for(call, 10))[0] == 200
        assert engine.posts == [
            ("/pause?mode=keep", {}),
            ("/update_weights", {"path": "/w"}),
            ("/resume", {}),
        ]
    (called,) = [
        each.call for each in TrajectoryReader(opened["trajectory"]) if isinstance(each, ModelCall)
    ]
    assert set(called["weight_versions"]) == {2}


async def test_weights_are_for_admins_and_for_engines(tmp_path: Path) -> None:
    async with service(tmp_path) as here:
        for path in ("pause", "weights", "resume"):
            assert (await here.ask("POST", f"/models/echo/{path}", "ann", {}))[0] == 403
        status, answer = await here.ask("POST", "/models/echo/pause", "root", {})
        assert (status, answer["error"]["code"]) == (400, "FailedPrecondition")
        assert "of the kind 'echo', whose weights nobody updates" in answer["error"]["message"]
        assert (await here.ask("GET", "/models/ecko", "root"))[0] == 404
        assert (await here.ask("GET", "/models/echo", "root"))[1]["kind"] == "echo"
        status, answer = await here.ask("POST", "/models/echo/weights", "root", {"version": None})
        assert (status, "version: None" in answer["error"]["message"]) == (400, True)
        status, answer = await here.ask("POST", "/models/echo/resume", "root", {"x": 1})
        assert (status, "x: unknown field" in answer["error"]["message"]) == (400, True)


async def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path) as here:
        headers = {"Authorization": "Bearer ann"}
        async with (
            ClientSession() as client,
            client.post(f"{here.url}/sessions", data=b"\xff{", headers=headers) as response,
        ):
            assert response.status == 400
            assert "body: Invalid JSON" in (await response.json())["error"]["message"]


async def test_what_is_under_way_ends_with_the_service(tmp_path: Path) -> None:
    async with service(tmp_path, delay=3600) as here:
        opened = await here.open()
        call = asyncio.create_task(here.call(opened))
        await until(lambda: bool(here.service.sessions.find(opened["token"]).cut))
        here.service.sessions.end_all(Unauthenticated("this server has ended"))
        assert (await asyncio.wait_for(call, 10))[0] == 401
