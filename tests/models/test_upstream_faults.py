"""What an upstream does wrong: a typed error, or another attempt where nothing was handed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from megaflow.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MegaflowError,
    ResourceExhausted,
    Unavailable,
)
from megaflow.generation import Event, Finish, Message, Request, Text, TextDelta
from megaflow_adapters.models.openai import OpenAIModel
from model_rig import until
from model_upstream import Turn, Upstream, upstream

KEY = "sk-very-secret-0123456789"


def ask(text: str = "hello", *, stream: bool = False, rollout: str | None = None) -> Request:
    return Request(
        "any", messages=(Message("user", (Text(text),)),), stream=stream, rollout=rollout
    )


@asynccontextmanager
async def model(server: Upstream, **config: Any) -> AsyncIterator[OpenAIModel]:
    config = {"base_urls": (server.url + "/v1",), "model": "m", "cooldown": 0.0, **config}
    made = OpenAIModel(**config)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megaflow_adapters.models.backoff._FIRST", 0.001)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "bad",
    [
        Turn(status=500),
        Turn(status=503),
        Turn(status=429, headers={"Retry-After": "0"}),
        Turn(fault="cut"),
        Turn(fault="garbage"),
        Turn(fault="wrong-json"),
    ],
    ids=["500", "503", "429", "cut", "garbage", "wrong-json"],
)
async def test_it_is_asked_again_where_nothing_was_handed_on(bad: Turn, stream: bool) -> None:
    async with upstream() as server, model(server) as asked:
        server.turns = [bad, bad]
        answer = await asked.generate(ask(stream=stream))
        assert answer.text == "hello"
        assert len(server.seen) == 3
        assert asked.loads == {server.url + "/v1": 0}


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (Turn(status=500, said="oops"), Unavailable),
        (Turn(status=429, headers={"Retry-After": "0"}), ResourceExhausted),
        (Turn(fault="cut"), Unavailable),
        (Turn(fault="garbage"), Unavailable),
    ],
)
async def test_in_the_end_it_is_a_typed_error(bad: Turn, kind: type[MegaflowError]) -> None:
    async with upstream(lambda _: bad) as server, model(server, attempts=3) as asked:
        with pytest.raises(kind) as raised:
            await asked.generate(ask())
        assert type(raised.value) is kind
        assert raised.value.infrastructure
        assert len(server.seen) == 3


@pytest.mark.parametrize("fault", ["cut-midway", "garbage-midway", "short"])
async def test_a_stream_that_breaks_off_is_not_asked_again(fault: Any) -> None:
    async with upstream() as server, model(server) as asked:
        server.turns = [Turn("abcdefgh", fault=fault)]
        seen: list[Event] = []

        async def read() -> None:
            async for event in asked.stream(ask(stream=True)):
                seen.append(event)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(Unavailable, match="had been handed on, so it was not asked again"):
            await read()
        assert TextDelta("a") in seen
        assert len(server.seen) == 1


async def test_a_hang_is_a_deadline() -> None:
    async with upstream() as server, model(server, idle_timeout=0.05, attempts=2) as asked:
        server.turns = [Turn(fault="hang"), Turn(fault="hang")]
        with pytest.raises(DeadlineExceeded, match="no answer in time"):
            await asked.generate(ask())
        assert len(server.seen) == 2


async def test_the_total_timeout_holds_over_all_attempts() -> None:
    async with upstream() as server, model(server, total_timeout=0.2, attempts=99) as asked:
        server.default = lambda _: Turn(fault="hang")
        began = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await asked.generate(ask())
        assert asyncio.get_running_loop().time() - began < 1.2


async def test_retry_after_is_kept_for_the_caller() -> None:
    async with upstream() as server, model(server, attempts=1) as asked:
        server.turns = [Turn(status=429, headers={"Retry-After": "17"})]
        with pytest.raises(ResourceExhausted) as raised:
            await asked.generate(ask())
        assert raised.value.retry_after == 17


async def test_a_wrong_request_is_the_callers_and_not_asked_again() -> None:
    async with upstream() as server, model(server) as asked:
        server.turns = [Turn(status=400, said="maximum context length is 7")]
        with pytest.raises(InvalidArgument, match="HTTP 400: maximum context length is 7"):
            await asked.generate(ask())
        assert len(server.seen) == 1


async def test_nothing_listens() -> None:
    async with upstream() as server:
        url = server.url
    dead = OpenAIModel(base_urls=(url + "/v1",), model="m", attempts=2)
    with pytest.raises(Unavailable, match="the connection failed"):
        await dead.generate(ask())
    await dead.close()


async def test_another_replica_is_asked_where_one_is_gone() -> None:
    async with upstream() as gone:
        dead = gone.url + "/v1"
    async with (
        upstream() as server,
        model(server, base_urls=(dead, server.url + "/v1"), cooldown=60.0) as asked,
    ):
        for number in range(6):
            assert (await asked.generate(ask(str(number)))).text == str(number)
        assert len(server.seen) == 6


async def test_calls_of_a_rollout_go_to_one_replica_and_others_spread() -> None:
    async with upstream() as one, upstream() as two:
        urls = (one.url + "/v1", two.url + "/v1")
        async with model(one, base_urls=urls) as asked:
            for _ in range(5):
                await asked.generate(ask(rollout="a"))
            assert sorted([len(one.seen), len(two.seen)]) == [0, 5]
            for number in range(6):
                await asked.generate(ask(rollout=f"other-{number}"))
            assert min(len(one.seen), len(two.seen)) >= 3


async def test_a_stream_that_is_given_up_ends_upstream() -> None:
    async with (
        upstream(lambda _: Turn("x" * 40_000_000, piece=4000)) as server,
        model(server) as asked,
    ):
        async with aclosing(asked.stream(ask(stream=True))) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
        assert asked.loads == {server.url + "/v1": 0}
        await until(lambda: not server.open)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_is_used_again(stream: bool) -> None:
    async with upstream() as server, model(server) as asked:
        for _ in range(4):
            await asked.generate(ask(stream=stream))
        assert len(server.peers) == 1


async def test_who_waits_for_a_replica_and_goes_leaves_its_turn_to_the_next() -> None:
    async with (
        upstream(lambda _: Turn("ok", delay=0.05)) as server,
        model(server, max_per_replica=1) as asked,
    ):
        calls = [asyncio.create_task(asked.generate(ask())) for _ in range(8)]
        for gone in calls[0:8:2]:
            await asyncio.sleep(0.01)
            gone.cancel()
        async with asyncio.timeout(10):
            done = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(each, BaseException) for each in done] == [True, False] * 4
        assert asked.loads == {server.url + "/v1": 0}


async def test_who_waits_too_long_for_a_replica_is_told_to_come_back() -> None:
    async with (
        upstream(lambda _: Turn(fault="hang")) as server,
        model(server, max_per_replica=1, total_timeout=0.2, attempts=1) as asked,
    ):
        first = asyncio.create_task(asked.generate(ask()))
        await asyncio.sleep(0.1)
        with pytest.raises((ResourceExhausted, DeadlineExceeded)):
            await asked.generate(ask())
        with pytest.raises(DeadlineExceeded):
            await first


async def test_a_replica_never_has_more_calls_than_it_may() -> None:
    most = 0

    def note(request: Request) -> Turn:
        nonlocal most
        most = max(most, server.open + 1)
        return Turn("ok", delay=0.01)

    async with upstream(note) as server, model(server, max_per_replica=3) as asked:
        await asyncio.gather(*(asked.generate(ask()) for _ in range(20)))
    assert most == 3


class TestKeys:
    async def test_the_key_goes_to_the_upstream_and_into_no_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOME_KEY", KEY)
        async with upstream() as server, model(server, api_key_env="SOME_KEY", attempts=1) as asked:
            await asked.generate(ask())
            assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
            for turn in (
                Turn(status=400, said=f"bad key {KEY}"),
                Turn(status=500, said=f"bad key {KEY}"),
                Turn(status=401, said=f"Incorrect API key provided: {KEY[:8]}"),
            ):
                server.turns = [turn]
                with pytest.raises(MegaflowError) as raised:
                    await asked.generate(ask())
                assert "very-secret" not in str(raised.value)
                assert KEY[:8] not in str(raised.value)
            assert KEY not in repr(asked.__dict__) + repr(asked.settings)

    async def test_a_refused_key_makes_no_result(self) -> None:
        async with upstream() as server, model(server) as asked:
            server.turns = [Turn(status=401)]
            with pytest.raises(Unavailable, match="refused the server's key") as raised:
                await asked.generate(ask())
            assert raised.value.infrastructure
            assert len(server.seen) == 1

    def test_a_key_that_is_named_and_absent_is_refused(self) -> None:
        with pytest.raises(InvalidArgument, match=r"api_key_env: \$NO_SUCH_KEY is not set"):
            OpenAIModel(base_urls=("http://x/v1",), model="m", api_key_env="NO_SUCH_KEY")


class TestSettings:
    def test_an_unknown_key_is_refused(self) -> None:
        with pytest.raises(InvalidArgument, match=r"colour: .*known are base_urls"):
            OpenAIModel(base_urls=("http://x/v1",), model="m", colour=1)

    @pytest.mark.parametrize("url", ["http://user:pass@x/v1", "x:8000/v1", "ftp://x"])
    def test_a_url_that_is_none_or_holds_a_password_is_refused(self, url: str) -> None:
        with pytest.raises(InvalidArgument, match="base_urls") as raised:
            OpenAIModel(base_urls=(url,), model="m")
        assert "pass@" not in str(raised.value)

    async def test_the_newer_name_of_max_tokens(self) -> None:
        from dataclasses import replace

        from megaflow.generation import Sampling

        async with (
            upstream() as server,
            model(server, max_tokens_field="max_completion_tokens") as asked,
        ):
            await asked.generate(replace(ask(), sampling=Sampling(max_tokens=5)))
            assert server.seen[0]["max_completion_tokens"] == 5
            assert "max_tokens" not in server.seen[0]


async def test_a_streamed_and_a_whole_answer_are_the_same() -> None:
    async with (
        upstream(lambda _: Turn("Grüße", (("f", "{}"), ("g", "")))) as server,
        model(server) as asked,
    ):
        whole = await asked.generate(ask())
        streamed = await asked.generate(ask(stream=True))
        assert whole == streamed
        assert [call.name for call in whole.tool_calls] == ["f", "g"]
        async with aclosing(asked.stream(ask(stream=True))) as events:
            last = [event async for event in events][-1]
        assert isinstance(last, Finish)
