"""What vLLM and SGLang are sent and give: ids, versions, pauses; and models that need no engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from megaflow.calls import CallRecord
from megaflow.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from megaflow.generation import Message, Request, Sampling, Text, TextDelta, ToolCall
from megaflow_adapters.models.echo import EchoModel
from megaflow_adapters.models.replay import ReplayModel
from megaflow_adapters.models.scripted import ScriptedModel
from megaflow_adapters.models.sglang import SglangModel
from megaflow_adapters.models.vllm import VllmModel
from model_rig import gateway
from model_upstream import Turn, Upstream, serving, upstream

HELLO = Request("m", messages=(Message("user", (Text("hello"),)),))


@asynccontextmanager
async def vllm(server: Upstream, **config: Any) -> AsyncIterator[VllmModel]:
    model = VllmModel(base_urls=(server.url + "/v1",), model="m", **config)
    try:
        yield model
    finally:
        await model.close()


class TestVllm:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_each_token_has_id_log_prob_and_version(self, stream: bool) -> None:
        async with upstream() as server, vllm(server, weight_version=3) as model:
            answer = await model.generate(replace(HELLO, stream=stream))
            assert bytes((answer.token_ids or ())[:-1]) == b"hello"
            assert len(answer.logprobs or ()) == 6
            assert answer.weight_versions == (3,) * 6
            assert answer.prompt_token_ids is not None
            (seen,) = server.seen
            assert seen["return_token_ids"] is True
            assert (seen["logprobs"], seen["top_logprobs"]) == (True, 0)

    async def test_a_prompt_of_ids_goes_as_it_is(self) -> None:
        async with upstream() as server, vllm(server) as model:
            answer = await model.generate(Request("m", prompt=(5, 6)))
            assert answer.prompt_token_ids == (5, 6)
            assert server.seen[0]["prompt"] == [5, 6]
            assert answer.weight_versions is None

    async def test_a_version_that_changes_midway_is_stamped_on_what_comes_then(self) -> None:
        async with (
            upstream(lambda _: Turn("ab" * 3000)) as server,
            vllm(server, weight_version=1) as model,
        ):
            async with aclosing(model.stream(HELLO)) as events:
                seen = 0
                versions = []
                async for event in events:
                    seen += isinstance(event, TextDelta)
                    if seen == 10:
                        model.weight_version = 2
                    versions.append(getattr(event, "version", None))
            assert {1, 2} <= set(versions)

    async def test_ids_that_are_lost_are_no_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "model_upstream._usage",
            lambda request, made: {"prompt_tokens": 1, "completion_tokens": len(made) + 1},
        )
        async with upstream() as server, vllm(server) as model:
            with pytest.raises(Unavailable, match="6 token ids for 7 tokens"):
                await model.generate(HELLO)

    async def test_while_it_is_paused_calls_wait(self) -> None:
        async with upstream() as server, vllm(server, weight_version=1) as model:
            await model.pause("abort")
            call = asyncio.create_task(model.generate(HELLO))
            await asyncio.sleep(0.05)
            assert (server.seen, call.done()) == ([], False)
            await model.update_weights(2, update_info={"names": ["w"]})
            await model.resume()
            assert (await call).weight_versions == (2,) * 6
            assert server.posts == [
                ("/pause?mode=abort", {}),
                ("/update_weights", {"update_info": {"names": ["w"]}}),
                ("/resume", {}),
            ]

    async def test_who_waits_too_long_is_told_to_come_back(self) -> None:
        async with upstream() as server, vllm(server, pause_wait=0.05) as model:
            await model.pause()
            with pytest.raises(ResourceExhausted) as raised:
                await model.generate(HELLO)
            assert raised.value.retry_after == 1.0
            async with gateway() as rig:
                token = rig.open({"policy": model})
                body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
                status, _, headers = await rig.post("/v1/chat/completions", body, token)
                assert (status, headers["Retry-After"]) == (429, "1")

    async def test_a_pause_that_fails_holds_nobody_back(self) -> None:
        async with upstream() as server:
            url = server.url
        model = VllmModel(base_urls=(url + "/v1",), model="m")
        with pytest.raises(Unavailable):
            await model.pause()
        assert not model.paused
        await model.close()


class Sglang:
    """As much of SGLang as is used."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.version: Any = "5"

    def meta(self) -> dict[str, Any]:
        return {
            "output_token_logprobs": [[-0.1, 11, "he"], [-0.2, 12, None]],
            "finish_reason": {"type": "stop", "matched": "END"},
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "weight_version": self.version,
        }

    async def answer(self, http: web.Request) -> web.Response:
        body = await http.json()
        self.seen.append((http.path, body))
        if http.path == "/generate":
            return web.json_response({"text": "he", "meta_info": self.meta()})
        if http.path == "/v1/chat/completions":
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "he"},
                "finish_reason": "stop",
                "meta_info": self.meta(),
                "prompt_token_ids": [1, 2, 3],
            }
            return web.json_response({"choices": [choice]})
        return web.json_response({"success": True})


@asynccontextmanager
async def sglang(**config: Any) -> AsyncIterator[tuple[Sglang, SglangModel]]:
    server, app = Sglang(), web.Application()
    app.router.add_post("/{rest:.*}", server.answer)
    async with serving(app) as url:
        model = SglangModel(base_urls=(url + "/v1",), model="m", **config)
        try:
            yield server, model
        finally:
            await model.close()


class TestSglang:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_chat_gives_ids_log_probs_and_version(self, stream: bool) -> None:
        async with sglang() as (server, model):
            answer = await model.generate(replace(HELLO, stream=stream))
            assert (answer.text, answer.prompt_token_ids, answer.token_ids) == (
                "he",
                (1, 2, 3),
                (11, 12),
            )
            assert answer.logprobs == (-0.1, -0.2)
            assert answer.weight_versions == (5, 5)
            ((path, body),) = server.seen
            assert path == "/v1/chat/completions"
            assert body["return_meta_info"] is body["return_prompt_token_ids"] is True
            assert "stream" not in body

    async def test_a_prompt_of_ids_goes_to_generate(self) -> None:
        async with sglang() as (server, model):
            sampling = Sampling(max_tokens=4, temperature=0.5, stop=("END",), seed=9)
            answer = await model.generate(Request("m", prompt=(7, 8), sampling=sampling))
            assert (answer.prompt_token_ids, answer.token_ids) == ((7, 8), (11, 12))
            assert (answer.finish_reason, answer.stop_sequence) == ("stop", "END")
            ((path, body),) = server.seen
            assert path == "/generate"
            assert body == {
                "input_ids": [7, 8],
                "sampling_params": {
                    "max_new_tokens": 4,
                    "temperature": 0.5,
                    "sampling_seed": 9,
                    "stop": ["END"],
                },
                "return_logprob": True,
            }

    async def test_without_the_engines_version_ours_is_stamped(self) -> None:
        async with sglang(weight_version=8) as (server, model):
            server.version = None
            assert (await model.generate(HELLO)).weight_versions == (8, 8)

    async def test_control_is_passed_through(self) -> None:
        async with sglang() as (server, model):
            await model.pause("retract")
            assert model.paused
            await model.update_weights(9, model_path="/w")
            await model.resume()
            assert model.weight_version == 9
            assert server.seen == [
                ("/pause_generation", {"mode": "retract"}),
                ("/update_weights_from_disk", {"model_path": "/w", "weight_version": "9"}),
                ("/continue_generation", {}),
            ]
            with pytest.raises(InvalidArgument, match="source"):
                await model.update_weights(10, source="air")  # type: ignore[arg-type]


class TestWithoutAnEngine:
    async def test_a_script_is_said_in_turn(self) -> None:
        model = ScriptedModel(["one", ToolCall("i", "f", "{}"), Unavailable("gone")])
        assert (await model.generate(HELLO)).text == "one"
        answer = await model.generate(HELLO)
        assert (answer.finish_reason, answer.tool_calls[0].name) == ("tool_calls", "f")
        with pytest.raises(Unavailable, match="gone"):
            await model.generate(HELLO)
        with pytest.raises(FailedPrecondition, match="all its answers"):
            await model.generate(HELLO)

    async def test_a_script_can_be_repeated(self) -> None:
        model = ScriptedModel(["a", "b"], repeat=True)
        assert [(await model.generate(HELLO)).text for _ in range(5)] == list("ababa")
        with pytest.raises(InvalidArgument, match="nothing to repeat"):
            ScriptedModel([], repeat=True)

    async def test_an_echo_of_a_prompt(self) -> None:
        assert (await EchoModel().generate(Request("m", prompt=(1, 2)))).text == "1 2"
        assert (await EchoModel().generate(Request("m", prompt="x"))).text == "x"

    async def test_what_was_recorded_is_replayed(self) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        other = {"model": "m", "messages": [{"role": "user", "content": "y"}]}
        path = "/v1/chat/completions"
        async with gateway() as rig:
            script = ScriptedModel(["1", "2", ToolCall("i", "f", "{}")], weight_version=4)
            token = rig.open({"policy": script})
            first = [(await rig.post(path, each, token))[1] for each in (body, body, other)]
            kept = rig.records["r"]
            loaded = [CallRecord.from_dict(each.to_dict()) for each in kept]
            token = rig.open({"policy": ReplayModel(loaded)}, "again")
            second = [(await rig.post(path, each, token))[1] for each in (other, body, body)]
            messages = [answer["choices"][0]["message"] for answer in first]
            assert [answer["choices"][0]["message"] for answer in second] == [
                messages[2],
                messages[0],
                messages[1],
            ]
            again = rig.records["again"]
            assert [r.completion_token_ids for r in again[1:]] == [
                r.completion_token_ids for r in kept[:2]
            ]
            assert again[0].weight_versions == kept[2].weight_versions
            status, answer, _ = await rig.post(path, body, token)
            assert status == 400  # the third time
            assert "no recorded answer left" in answer["error"]["message"]

    @pytest.mark.parametrize("prompt", ["once", (1, 2, 3)])
    async def test_a_recorded_prompt_is_replayed(self, prompt: str | tuple[int, ...]) -> None:
        body = {"model": "m", "prompt": prompt}
        async with gateway() as rig:
            token = rig.open({"policy": ScriptedModel(["upon"])})
            await rig.post("/v1/completions", body, token)
            token = rig.open({"policy": ReplayModel(rig.records["r"])}, "again")
            status, answer, _ = await rig.post("/v1/completions", body, token)
            assert (status, answer["choices"][0]["text"]) == (200, "upon")
