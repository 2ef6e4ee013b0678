"""Tokens, ends of sessions, and what is recorded of calls that do not end well."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout

from megaflow.calls import CallRecord
from megaflow.errors import InvalidArgument, MegaflowError, Superseded, Unauthenticated, Unavailable
from megaflow.generation import Sampling
from megaflow_adapters.models.echo import EchoModel
from megaflow_adapters.models.openai import OpenAIModel
from megaflow_adapters.models.scripted import ScriptedModel
from megaflow_server.models.sessions import ModelSession, ModelSessions
from model_rig import gateway, until
from model_upstream import Turn, upstream

CHAT = "/v1/chat/completions"
KEY = "sk-very-secret-0123456789"


def body(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], **more}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def drop(record: CallRecord) -> None: ...


def session(rollout: str = "r", **more: Any) -> ModelSession:
    return ModelSession(rollout_id=rollout, models={"policy": EchoModel()}, sink=drop, **more)


class TestTokens:
    async def test_a_token_opens_its_own_session_only(self) -> None:
        async with gateway() as rig:
            one = rig.open({"policy": EchoModel()}, "one")
            two = rig.open({"policy": EchoModel()}, "two")
            for token, text in ((one, "a"), (two, "b"), (one, "c")):
                status, answer, _ = await rig.post(f"/sessions/{token}{CHAT}", body(text))
                assert (status, answer["choices"][0]["message"]["content"]) == (200, text)
            asked = {
                name: [r.messages[0]["content"] for r in rs] for name, rs in rig.records.items()
            }
            assert asked == {"one": ["a", "c"], "two": ["b"]}

    @pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
    async def test_a_guessed_token_and_none_are_refused_everywhere(self, path: str) -> None:
        async with gateway() as rig:
            token = rig.open({"policy": EchoModel()})
            guesses = ["0" * 32, token[:-1], token.upper() + "x", "policy"]
            for guess in guesses:
                for status, answer, _ in (
                    await rig.post(f"/sessions/{guess}{path}", {}),
                    await rig.post(path, {}, guess),
                ):
                    assert status == 401
                    assert answer["error"]["type"] == "authentication_error"
                    assert guess not in str(answer)
            assert (await rig.post(path, {}))[0] == 401
            assert rig.records["r"] == []

    async def test_the_path_counts_where_there_is_a_key_too(self) -> None:
        async with gateway() as rig:
            one = rig.open({"policy": EchoModel()}, "one")
            two = rig.open({"policy": EchoModel()}, "two")
            assert (await rig.post(f"/sessions/{one}{CHAT}", body(), two))[0] == 200
            assert len(rig.records["one"]) == 1
            assert rig.records["two"] == []

    async def test_tokens_and_keys_stand_in_no_log_and_no_record(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("SOME_KEY", KEY)
        async with upstream() as server, gateway() as rig:
            model = OpenAIModel(
                base_urls=(server.url + "/v1",), model="m", api_key_env="SOME_KEY", attempts=1
            )
            token = rig.open({"policy": model})
            server.turns = [Turn("ok"), Turn(status=500, said=KEY), Turn(status=401, said=KEY)]
            said = [await rig.post(f"/sessions/{token}{CHAT}", body()) for _ in range(3)]
            await model.close()
            told = caplog.text + repr(said) + repr([r.to_dict() for r in rig.records["r"]])
            assert len(rig.records["r"]) == 3
            assert "very-secret" not in told
            assert token not in told
            assert token not in repr(rig.sessions.__dict__)


class TestEnds:
    def test_a_session_expires(self) -> None:
        clock = Clock()
        sessions = ModelSessions(clock)
        token = sessions.open(session(lifetime=10))
        clock.now = 9.9
        sessions.find(token)
        clock.now = 10
        for _ in range(2):
            with pytest.raises(Unauthenticated, match="expired"):
                sessions.find(token)

    def test_a_sweep_ends_what_nobody_asks_for(self) -> None:
        clock = Clock()
        sessions = ModelSessions(clock)
        sessions.open(session("a", lifetime=10))
        sessions.open(session("b"))
        clock.now = 11
        assert (sessions.sweep(), len(sessions)) == (1, 1)

    def test_a_closed_session_is_refused(self) -> None:
        sessions = ModelSessions()
        token = sessions.open(session())
        sessions.close(token)
        sessions.close(token)
        with pytest.raises(Unauthenticated, match="closed"):
            sessions.find(token)

    def test_a_newer_attempt_supersedes_and_an_older_one_does_not(self) -> None:
        sessions = ModelSessions()
        old = sessions.open(session(attempt=1))
        new = sessions.open(session(attempt=2))
        with pytest.raises(Superseded):
            sessions.find(old)
        for attempt in (1, 2):
            with pytest.raises(Superseded, match="attempt 2 has begun"):
                sessions.open(session(attempt=attempt))
        assert sessions.find(new).attempt == 2
        sessions.open(session("other", attempt=1))
        sessions.close(new)
        with pytest.raises(Superseded, match="attempt 2 has begun"):
            sessions.open(session(attempt=1))
        sessions.open(session(attempt=2))

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_call_under_way_ends_with_its_session(self, stream: bool) -> None:
        async with gateway() as rig:
            token = rig.open({"policy": EchoModel(delay=3600)}, attempt=0)
            path = f"/sessions/{token}{CHAT}"
            call = asyncio.create_task(rig.post(path, body(stream=stream)))
            await until(lambda: bool(rig.sessions.find(token).cut))
            new = rig.open({"policy": EchoModel()}, attempt=1)
            status, answer, _ = await asyncio.wait_for(call, 5)
            assert (status, answer["error"]["code"]) == (403, "Superseded")
            assert rig.records["r"] == []
            assert (await rig.post(CHAT, body(), new))[0] == 200
            assert [record.attempt for record in rig.records["r"]] == [1]

    def test_a_session_needs_its_default_role(self) -> None:
        with pytest.raises(InvalidArgument, match="default_role: 'grader' is none of policy"):
            session(default_role="grader")


class TestRoles:
    async def test_a_name_is_a_role_a_model_or_the_default(self) -> None:
        models = {"policy": ScriptedModel(["p"], repeat=True), "grader": EchoModel(name="judge")}
        async with gateway() as rig:
            token = rig.open(models)
            for name in ("policy", "grader", "judge", "gpt-5"):
                await rig.post(CHAT, {**body(), "model": name}, token)
            roles = [record.role for record in rig.records["r"]]
            assert roles == ["policy", "grader", "grader", "policy"]

    async def test_without_a_default_other_names_are_not_found(self) -> None:
        async with gateway() as rig:
            token = rig.open({"policy": EchoModel()}, default_role=None)
            status, answer, _ = await rig.post(CHAT, {**body(), "model": "gpt-5"}, token)
            assert status == 404
            assert "'gpt-5' is none of this session's: echo, policy" in answer["error"]["message"]

    async def test_the_sessions_sampling_lies_under_the_requests(self) -> None:
        async with gateway() as rig:
            defaults = Sampling(temperature=1.0, max_tokens=50)
            token = rig.open({"policy": EchoModel()}, sampling=defaults)
            await rig.post(CHAT, body(max_tokens=7), token)
            (record,) = rig.records["r"]
            assert record.sampling == {"temperature": 1.0, "max_tokens": 7}


class TestRecords:
    async def test_nothing_is_answered_that_was_not_recorded(self) -> None:
        async def full(record: CallRecord) -> None:
            raise OSError("no space left on device")

        async with gateway() as rig:
            token = rig.open({"policy": EchoModel()}, sink=full)
            status, answer, _ = await rig.post(CHAT, body(), token)
            assert status == 503
            assert "could not be recorded: no space left" in answer["error"]["message"]

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_failure_is_recorded_without_a_response(self, stream: bool) -> None:
        async with gateway() as rig:
            token = rig.open({"policy": ScriptedModel([Unavailable("gone")])})
            status, _, _ = await rig.post(CHAT, body(stream=stream), token)
            (record,) = rig.records["r"]
            assert (status, record.status, record.error) == (503, 503, "gone")
            assert (record.response, record.branch, record.finish_reason) == (None, None, None)

    async def test_a_models_own_bug_is_no_answer(self) -> None:
        def broken(request: object) -> str:
            raise ZeroDivisionError

        async with gateway() as rig:
            token = rig.open({"policy": ScriptedModel(broken)})
            status, answer, _ = await rig.post(CHAT, body(), token)
            assert (status, answer["error"]["message"]) == (
                503,
                "model 'scripted' raised ZeroDivisionError",
            )

    async def test_a_caller_who_goes_away_gives_the_call_up(self) -> None:
        async with upstream(lambda _: Turn("ok", delay=3600)) as server, gateway() as rig:
            model = OpenAIModel(base_urls=(server.url + "/v1",), model="m")
            token = rig.open({"policy": model})
            async with ClientSession(timeout=ClientTimeout(total=0.2)) as client:
                with pytest.raises(TimeoutError):
                    await client.post(f"{rig.url}/sessions/{token}{CHAT}", json=body())
            await until(lambda: bool(rig.records["r"]) and not server.open)
            (record,) = rig.records["r"]
            assert (record.status, record.response) == (499, None)
            await model.close()

    async def test_records_hold_what_was_asked_and_what_came(self) -> None:
        async with gateway() as rig:
            token = rig.open({"policy": EchoModel()}, group_id="g", attempt=3)
            await rig.post(CHAT, body("one", temperature=0.5), token)
            (record,) = rig.records["r"]
            assert (record.rollout_id, record.group_id, record.attempt) == ("r", "g", 3)
            assert record.messages == [{"role": "user", "content": "one"}]
            assert record.response == {"role": "assistant", "content": "one"}
            assert record.sampling == {"temperature": 0.5}
            assert record.usage == {"prompt_tokens": 6, "completion_tokens": 4}
            assert record.loss_mask == [1, 1, 1, 1]
            assert record.latency >= (record.first_token or 0) >= 0


class TestLimits:
    async def test_one_call_too_many_is_told_to_come_back(self) -> None:
        async with gateway(max_calls=2) as rig:
            token = rig.open({"policy": EchoModel(delay=0.3)})
            said = await asyncio.gather(*(rig.post(CHAT, body(), token) for _ in range(5)))
            assert sorted(status for status, _, _ in said) == [200, 200, 429, 429, 429]
            assert {h["Retry-After"] for s, _, h in said if s == 429} == {"1"}
            assert (await rig.post(CHAT, body(), token))[0] == 200

    async def test_a_body_too_large_and_one_that_is_no_json(self) -> None:
        async with gateway(max_body=1000) as rig:
            token = rig.open({"policy": EchoModel()})
            assert (await rig.post(CHAT, body("x" * 2000), token))[0] == 400
            async with ClientSession() as client:
                for data in (b"{", b"[" * 900, b"\xff", b"[]", b"null"):
                    async with client.post(f"{rig.url}/sessions/{token}{CHAT}", data=data) as got:
                        assert got.status == 400, data

    async def test_a_reader_that_takes_nothing_is_given_up_and_memory_stays(self) -> None:
        size = 40_000_000
        much = Turn("y" * size, piece=4000)
        async with upstream(lambda _: much) as server, gateway(write_timeout=0.3) as rig:
            model = OpenAIModel(base_urls=(server.url + "/v1",), model="m")
            token = rig.open({"policy": model})
            host, port = rig.url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port), limit=1024)
            data = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
            head = f"POST /sessions/{token}{CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            await writer.drain()
            await until(lambda: bool(rig.records["r"]))
            (record,) = rig.records["r"]
            assert record.status == 499
            assert record.response is not None
            made = len(record.response["content"])
            assert made < size / 2  # what stands in buffers of sockets, and not the answer
            writer.close()
            await model.close()


async def test_a_thousand_calls_at_once_lose_and_cross_nothing() -> None:
    async with gateway() as rig:
        tokens = {f"r{n}": rig.open({"policy": EchoModel(delay=0.05)}, f"r{n}") for n in range(100)}
        async with ClientSession() as client:

            async def call(rollout: str, number: int) -> None:
                nonce = f"{rollout}-{number}"
                url = f"{rig.url}/sessions/{tokens[rollout]}{CHAT}"
                async with client.post(url, json=body(nonce)) as response:
                    answer = await response.json()
                    assert answer["choices"][0]["message"]["content"] == nonce

            await asyncio.gather(*(call(r, n) for r in tokens for n in range(10)))
        for rollout, records in rig.records.items():
            said = {(record.response or {})["content"] for record in records}
            assert said == {f"{rollout}-{n}" for n in range(10)}
            assert len(records) == 10


def test_an_error_of_ours_has_a_status() -> None:
    from megaflow.dialects import http_status

    assert http_status(MegaflowError("?")) == 500
