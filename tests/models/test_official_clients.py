"""The official clients against the gateway, over a real upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from megaflow.calls import rows
from megaflow.generation import Request
from megaflow_adapters.models.bytes_tokens import END
from megaflow_adapters.models.vllm import VllmModel
from model_rig import Rig, gateway
from model_upstream import Turn, Upstream, upstream

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
ARGUMENTS = '{"city": "Zürich"}'


def answer(request: Request) -> Turn:
    """A call of the tool where there is one and no result yet; else text."""
    if request.tools and request.messages[-1].role != "tool":
        return Turn("Let me see.", calls=(("weather", ARGUMENTS),))
    return Turn("It is 21 °C.")


@asynccontextmanager
async def standing() -> AsyncIterator[tuple[Rig, Upstream, str]]:
    async with upstream(answer) as server, gateway() as rig:
        model = VllmModel(base_urls=(server.url + "/v1",), model="m", weight_version=7)
        try:
            yield rig, server, rig.open({"policy": model})
        finally:
            await model.close()


def check_rows(rig: Rig, calls: int) -> None:
    """Every call is one branch's, with ids, log-probs and version of each token."""
    records = rig.records["r"]
    assert len(records) == calls
    (row,) = rows(records)
    assert row.logprobs is not None
    assert row.weight_versions is not None
    made = [id for id, mask in zip(row.token_ids, row.loss_mask, strict=True) if mask]
    assert made == [id for record in records for id in record.completion_token_ids or ()]
    assert made.count(END) == calls
    stamped = zip(row.loss_mask, row.weight_versions, row.logprobs, strict=True)
    for mask, version, logprob in stamped:
        assert version == (7 if mask else None)
        assert (logprob < 0) == bool(mask)


@pytest.mark.requires("openai")
class TestOpenAI:
    @asynccontextmanager
    async def client(self, *, in_path: bool = False) -> AsyncIterator[tuple[Any, Rig]]:
        import openai

        async with standing() as (rig, _, token):
            url = f"{rig.url}/sessions/{token}/v1" if in_path else f"{rig.url}/v1"
            key = "unused" if in_path else token
            async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
                yield client, rig

    tools = [
        {
            "type": "function",
            "function": {"name": "weather", "description": "now", "parameters": WEATHER},
        }
    ]

    async def test_chat_with_tools(self) -> None:
        async with self.client() as (client, rig):
            messages: list[Any] = [{"role": "user", "content": "How warm is it?"}]
            first = await client.chat.completions.create(
                model="gpt-any", messages=messages, tools=self.tools
            )
            (choice,) = first.choices
            assert choice.finish_reason == "tool_calls"
            assert choice.message.content == "Let me see."
            (call,) = choice.message.tool_calls
            assert (call.function.name, call.function.arguments) == ("weather", ARGUMENTS)
            messages += [
                choice.message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "21"},
            ]
            second = await client.chat.completions.create(
                model="gpt-any", messages=messages, tools=self.tools, logprobs=True
            )
            assert second.choices[0].message.content == "It is 21 °C."
            assert second.choices[0].finish_reason == "stop"
            assert len(second.choices[0].logprobs.content) == second.usage.completion_tokens
            assert second.usage.completion_tokens == len("It is 21 °C.".encode()) + 1
            assert [record.dialect for record in rig.records["r"]] == ["chat", "chat"]

    async def test_chat_streamed_with_tools(self) -> None:
        async with self.client(in_path=True) as (client, rig):
            async with client.chat.completions.stream(
                model="policy",
                messages=[{"role": "user", "content": "How warm is it?"}],
                tools=self.tools,
                stream_options={"include_usage": True},
            ) as stream:
                final = await stream.get_final_completion()
            (choice,) = final.choices
            assert choice.message.content == "Let me see."
            (call,) = choice.message.tool_calls
            assert (call.function.name, call.function.arguments) == ("weather", ARGUMENTS)
            assert choice.finish_reason == "tool_calls"
            made = f"Let me see.<call weather>{ARGUMENTS}".encode()
            assert final.usage.completion_tokens == len(made) + 1
            check_rows(rig, 1)

    async def test_chat_goes_on_in_one_row(self) -> None:
        async with self.client() as (client, rig):
            messages: list[Any] = [{"role": "user", "content": "How warm is it?"}]
            for _ in range(3):
                reply = await client.chat.completions.create(model="policy", messages=messages)
                said = reply.choices[0].message.content
                messages += [
                    {"role": "assistant", "content": said},
                    {"role": "user", "content": "And now?"},
                ]
            check_rows(rig, 3)

    async def test_completions(self) -> None:
        async with self.client() as (client, rig):
            whole = await client.completions.create(model="policy", prompt="Once", max_tokens=9)
            assert whole.choices[0].text == "It is 21 °C."
            pieces = [
                chunk.choices[0].text
                async for chunk in await client.completions.create(
                    model="policy", prompt=[1, 2, 3], stream=True
                )
            ]
            assert "".join(pieces) == "It is 21 °C."
            assert rig.records["r"][1].prompt_token_ids == [1, 2, 3]

    async def test_responses_with_tools(self) -> None:
        tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
        async with self.client() as (client, _):
            items: list[Any] = [{"role": "user", "content": "How warm is it?"}]
            first = await client.responses.create(model="policy", input=items, tools=[tool])
            assert first.output_text == "Let me see."
            (call,) = [item for item in first.output if item.type == "function_call"]
            assert (call.name, call.arguments) == ("weather", ARGUMENTS)
            items += [item.model_dump(exclude_none=True) for item in first.output]
            items += [{"type": "function_call_output", "call_id": call.call_id, "output": "21"}]
            second = await client.responses.create(
                model="policy", input=items, tools=[tool], instructions=None
            )
            assert second.output_text == "It is 21 °C."
            assert second.status == "completed"
            assert second.usage.output_tokens == len("It is 21 °C.".encode()) + 1

    async def test_responses_streamed_with_tools(self) -> None:
        tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
        async with self.client() as (client, rig):
            async with client.responses.stream(
                model="policy", input="How warm is it?", tools=[tool]
            ) as stream:
                seen = [event.type async for event in stream]
                final = await stream.get_final_response()
            assert final.output_text == "Let me see."
            (call,) = [item for item in final.output if item.type == "function_call"]
            assert call.arguments == ARGUMENTS
            assert seen[0] == "response.created"
            assert seen[-1] == "response.completed"
            check_rows(rig, 1)

    async def test_models(self) -> None:
        async with self.client() as (client, _):
            assert [model.id async for model in client.models.list()] == ["policy"]
            assert (await client.models.retrieve("policy")).id == "policy"

    async def test_errors_have_the_clients_own_types(self) -> None:
        import openai

        async with self.client() as (client, _):
            with pytest.raises(openai.BadRequestError, match="messages: is empty"):
                await client.chat.completions.create(model="policy", messages=[])
            with pytest.raises(openai.AuthenticationError, match="opens no session"):
                await client.with_options(api_key="0" * 32).models.list()

    async def test_an_upstream_that_dies_midway_is_an_error_of_the_stream(self) -> None:
        import openai

        async with standing() as (rig, server, token):
            server.turns = [Turn("a long answer", fault="cut-midway")]
            async with openai.AsyncOpenAI(
                base_url=rig.url + "/v1", api_key=token, max_retries=0
            ) as client:
                stream = await client.chat.completions.create(
                    model="policy", messages=[{"role": "user", "content": "x"}], stream=True
                )
                with pytest.raises(openai.APIError, match="had been handed on"):
                    async for _ in stream:
                        pass
            (record,) = rig.records["r"]
            assert (record.status, record.finish_reason) == (503, "aborted")


@pytest.mark.requires("anthropic")
class TestAnthropic:
    tools = [{"name": "weather", "description": "now", "input_schema": WEATHER}]

    @asynccontextmanager
    async def client(self, *, in_path: bool = False) -> AsyncIterator[tuple[Any, Rig]]:
        import anthropic

        async with standing() as (rig, _, token):
            url = f"{rig.url}/sessions/{token}" if in_path else rig.url
            key = "unused" if in_path else token
            async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client:
                yield client, rig

    async def test_messages_with_tools(self) -> None:
        async with self.client() as (client, rig):
            messages: list[Any] = [{"role": "user", "content": "How warm is it?"}]
            first = await client.messages.create(
                model="claude-any",
                max_tokens=99,
                system="Be brief.",
                messages=messages,
                tools=self.tools,
            )
            assert first.stop_reason == "tool_use"
            text, call = first.content
            assert text.text == "Let me see."
            assert (call.name, call.input) == ("weather", {"city": "Zürich"})
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "21"}
            messages += [
                {"role": "assistant", "content": [part.model_dump() for part in first.content]},
                {"role": "user", "content": [result]},
            ]
            second = await client.messages.create(
                model="claude-any",
                max_tokens=99,
                system="Be brief.",
                messages=messages,
                tools=self.tools,
            )
            assert second.content[0].text == "It is 21 °C."
            assert second.stop_reason == "end_turn"
            assert second.usage.output_tokens == len("It is 21 °C.".encode()) + 1
            assert [record.dialect for record in rig.records["r"]] == ["messages", "messages"]
            assert rig.records["r"][1].messages[-1] == {
                "role": "tool",
                "tool_call_id": call.id,
                "content": "21",
            }

    async def test_messages_streamed_with_tools(self) -> None:
        async with self.client(in_path=True) as (client, rig):
            async with client.messages.stream(
                model="policy",
                max_tokens=99,
                messages=[{"role": "user", "content": "How warm is it?"}],
                tools=self.tools,
            ) as stream:
                final = await stream.get_final_message()
            text, call = final.content
            assert text.text == "Let me see."
            assert call.input == {"city": "Zürich"}
            assert final.stop_reason == "tool_use"
            assert final.usage.output_tokens > 0
            check_rows(rig, 1)

    async def test_errors_have_the_clients_own_types(self) -> None:
        import anthropic

        async with self.client() as (client, _):
            with pytest.raises(anthropic.BadRequestError, match="messages: is empty"):
                await client.messages.create(model="policy", max_tokens=1, messages=[])
            with pytest.raises(anthropic.AuthenticationError, match="opens no session"):
                await client.with_options(api_key="0" * 32).messages.create(
                    model="policy", max_tokens=1, messages=[{"role": "user", "content": "x"}]
                )

    async def test_models(self) -> None:
        async with self.client() as (client, _):
            assert [model.id async for model in client.models.list()] == ["policy"]
