"""Dialects to and from the one form; hypothesis takes requests and answers there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow import errors
from megaflow.dialects import DIALECTS, Chat, Completions, Messages, Responses, Stamp, http_status
from megaflow.dialects import upstream as spelled
from megaflow.dialects.sse import Lines, encode
from megaflow.errors import InvalidArgument, Unavailable
from megaflow.generation import (
    Assembler,
    Completion,
    Finish,
    Image,
    Message,
    Reasoning,
    Request,
    Sampling,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
    events,
)

USER = {"role": "user", "content": "hi"}
STAMP = Stamp("m", "id", 1)
FIELDS = [
    "model",
    "messages",
    "input",
    "prompt",
    "role",
    "content",
    "type",
    "text",
    "tools",
    "function",
    "name",
    "stop",
    "tool_choice",
    "max_tokens",
    "source",
    "tool_calls",
    "system",
    "reasoning",
    "summary",
    "image_url",
    "output",
    "choices",
    "message",
    "token_ids",
    "delta",
    "index",
    "finish_reason",
    "usage",
    "logprobs",
    "meta_info",
]

texts = st.text(min_size=1, max_size=8)
names = st.text("abz", min_size=1, max_size=6)
calls = st.builds(ToolCall, names, names, st.text(max_size=8))
usages = st.builds(
    Usage,
    st.integers(0, 99),
    st.integers(0, 99),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 9),
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    role = draw(st.sampled_from(["system", "user", "assistant", "tool"]))
    if role == "tool":
        return Message("tool", (ToolResult(draw(names), (Text(draw(texts)),)),))
    plain: list[Any] = draw(st.lists(st.builds(Text, texts), max_size=2))
    if role == "user":
        plain += draw(st.lists(st.builds(Image, texts, st.none() | names), max_size=1))
    if role == "assistant":
        thought = draw(st.lists(st.builds(Reasoning, texts), max_size=1))
        plain = [*thought, *plain, *draw(st.lists(calls, max_size=2))]
    return Message(role, tuple(plain))  # type: ignore[arg-type]


requests = st.builds(
    Request,
    model=names,
    messages=st.lists(messages(), min_size=1, max_size=4).map(tuple),
    tools=st.lists(
        st.builds(Tool, names, st.none() | texts, st.just({"type": "object"}), st.none()),
        max_size=2,
    ).map(tuple),
    tool_choice=st.none()
    | st.builds(ToolChoice, st.sampled_from(["auto", "none", "required"]))
    | st.builds(ToolChoice, st.just("tool"), names),
    parallel_tool_calls=st.none() | st.booleans(),
    sampling=st.builds(
        Sampling,
        max_tokens=st.none() | st.integers(1, 99),
        temperature=st.none() | st.floats(0, 2),
        top_k=st.none() | st.integers(1, 9),
        stop=st.lists(texts, max_size=2).map(tuple),
        logprobs=st.booleans(),
    ),
    extra=st.dictionaries(st.just("chat_template_kwargs"), st.just({"x": 1})),
)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    """An answer as chat completions can give it: reasoning, then text, then calls."""
    parts: list[Any] = [
        *draw(st.lists(st.builds(Reasoning, texts), max_size=1)),
        *draw(st.lists(st.builds(Text, texts), max_size=1)),
        *draw(st.lists(calls, max_size=3)),
    ]
    ids = draw(st.lists(st.integers(0, 999), min_size=1, max_size=4))
    return Completion(
        model="m",
        parts=tuple(parts),
        finish_reason=draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"])),
        usage=draw(usages),
        prompt_token_ids=tuple(draw(st.lists(st.integers(0, 999), max_size=4))),
        token_ids=tuple(ids),
        logprobs=tuple(-0.5 - n for n in range(len(ids))),
        token_texts=tuple("t" for _ in ids),
    )


@given(requests)
def test_a_request_goes_to_an_upstream_and_is_read_there_as_it_was(request: Request) -> None:
    body = json.loads(json.dumps(spelled.body(request, request.model, stream=False)))
    assert Chat().request(body) == request


@given(completions())
def test_an_answer_goes_through_chat_and_back(answer: Completion) -> None:
    request = Request("m", sampling=Sampling(logprobs=True), return_token_ids=True)
    reply = json.loads(json.dumps(Chat().reply(request, answer, STAMP)))
    assert spelled.completion(reply, "m") == answer


@given(completions(), st.integers(1, 50))
def test_a_stream_goes_through_chat_and_back_however_it_is_cut(
    answer: Completion, size: int
) -> None:
    request = Request(
        "m", sampling=Sampling(logprobs=True), return_token_ids=True, include_usage=True
    )
    writer = Chat().writer(request, STAMP)
    data = writer.begin() + b"".join(map(writer.event, events(answer)))
    lines, chunks, whole = Lines(), spelled.Chunks(), Assembler("m")
    for start in range(0, len(data), size):
        for each in lines.feed(data[start : start + size]):
            for event in chunks.feed(each):
                whole.add(event)
    assert whole.completion() == answer


@given(completions())
def test_events_make_the_completion_they_came_from(answer: Completion) -> None:
    versions = tuple(n // 2 for n in range(len(answer.token_ids or ())))
    answer = replace(answer, weight_versions=versions)
    whole = Assembler("m")
    for event in events(answer):
        whole.add(event)
    assert whole.completion() == answer


def data_of(stream: bytes) -> list[Any]:
    return [json.loads(each) for each in Lines().feed(stream) if each != "[DONE]"]


@given(completions())
def test_a_stream_of_messages_makes_what_the_whole_answer_is(answer: Completion) -> None:
    request = Request("m")
    writer = Messages().writer(request, STAMP)
    stream = data_of(writer.begin() + b"".join(map(writer.event, events(answer))))
    blocks: list[dict[str, Any]] = []
    opened: list[int] = []
    for event in stream:
        match event["type"]:
            case "content_block_start":
                assert not opened
                opened.append(event["index"])
                blocks.append({**event["content_block"], "json": ""})
            case "content_block_stop":
                assert opened.pop() == event["index"]
            case "content_block_delta":
                assert opened == [event["index"]]
                delta, block = event["delta"], blocks[event["index"]]
                for field, into in (("text", "text"), ("thinking", "thinking")):
                    if field in delta:
                        block[into] += delta[field]
                block["json"] += delta.get("partial_json", "")
    whole = Messages().reply(request, answer, STAMP)
    assert len(blocks) == len(whole["content"])
    for block, part in zip(blocks, whole["content"], strict=True):
        made = block.pop("json")
        if part["type"] == "tool_use":
            assert made == next(c.arguments for c in answer.tool_calls if c.arguments == made)
            block["input"] = part["input"]
        assert block == part
    assert stream[-2]["delta"] == {
        "stop_reason": whole["stop_reason"],
        "stop_sequence": whole["stop_sequence"],
    }
    assert stream[-2]["usage"] == whole["usage"]


@given(completions())
def test_a_stream_of_responses_ends_in_the_whole_answer(answer: Completion) -> None:
    request = Request("m")
    writer = Responses().writer(request, STAMP)
    stream = data_of(writer.begin() + b"".join(map(writer.event, events(answer))))
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    whole = Responses().reply(request, answer, STAMP)
    assert stream[-1]["response"] == whole
    assert stream[-1]["type"] == f"response.{whole['status']}"
    done = [event["item"] for event in stream if event["type"] == "response.output_item.done"]
    assert done == whole["output"]


@given(completions())
def test_an_answer_comes_back_as_the_message_it_was(answer: Completion) -> None:
    """What a caller sends back next is what the model said, in every dialect; so the prompt's prefix is kept."""
    request = Request("m")
    chat = Chat().reply(request, answer, STAMP)["choices"][0]["message"]
    items = Responses().reply(request, answer, STAMP)["output"]
    (again,) = Chat().request({"model": "m", "messages": [chat]}).messages
    if items:
        (other,) = Responses().request({"model": "m", "input": items}).messages
        assert other == again
    assert again.parts == answer.parts


class TestRefusals:
    @pytest.mark.parametrize(
        ("dialect", "body", "says"),
        [
            (Chat(), {"messages": [USER]}, "model: is missing"),
            (Chat(), {"model": "m", "messages": [USER], "n": 2}, "n: one answer"),
            (Chat(), {"model": 1, "messages": [USER]}, "model: expected a string, got 1"),
            (Chat(), {"model": "m", "messages": [{"role": "boss"}]}, r"messages\[0\].role: 'boss'"),
            (Chat(), {"model": "m", "messages": [{"role": "tool"}]}, "tool_call_id: is missing"),
            (Chat(), {"model": "m", "messages": [USER], "max_tokens": 0}, "max_tokens: 0"),
            (Chat(), {"model": "m", "messages": [USER], "temperature": True}, "expected a number"),
            (Chat(), {"model": "m", "messages": [USER], "functions": []}, "use tools"),
            (
                Chat(),
                {"model": "m", "messages": [{**USER, "content": [{"type": "input_audio"}]}]},
                r"content\[0\].type: 'input_audio'",
            ),
            (Chat(), [], "the body: expected an object"),
            (Chat(), {"model": "m", "messages": [USER], "top_logprobs": 5}, "top_logprobs: 5;"),
            (Completions(), {"model": "m", "prompt": "x", "logprobs": 5}, "logprobs: 5;"),
            (Responses(), {"model": "m", "input": "x", "top_logprobs": 1}, "top_logprobs: 1;"),
            (Completions(), {"model": "m", "prompt": ["a", "b"]}, "prompt: expected one"),
            (Completions(), {"model": "m", "prompt": "x", "echo": True}, "echo: the prompt"),
            (Responses(), {"model": "m"}, "input: is empty"),
            (
                Responses(),
                {"model": "m", "input": "x", "previous_response_id": "r"},
                "send the whole conversation",
            ),
            (Responses(), {"model": "m", "input": "x", "colour": 1}, "colour: is not known here"),
            (
                Responses(),
                {"model": "m", "input": "x", "tools": [{"type": "web_search"}]},
                "runs at its provider",
            ),
            (
                Responses(),
                {"model": "m", "input": [{"type": "item_reference", "id": "i"}]},
                "'item_reference'",
            ),
            (Messages(), {"model": "m", "messages": [USER]}, "max_tokens: None"),
            (
                Messages(),
                {"model": "m", "max_tokens": 1, "messages": [USER], "colour": 1},
                "colour: is not known here",
            ),
            (
                Messages(),
                {"model": "m", "max_tokens": 1, "messages": [USER], "mcp_servers": []},
                "mcp_servers: the gateway calls no tools",
            ),
            (
                Messages(),
                {
                    "model": "m",
                    "max_tokens": 1,
                    "messages": [USER],
                    "tools": [{"type": "bash_20250124", "name": "bash"}],
                },
                "runs at its provider",
            ),
        ],
    )
    def test_the_field_is_named(self, dialect: Any, body: Any, says: str) -> None:
        with pytest.raises(InvalidArgument, match=says):
            dialect.request(body)

    @given(
        st.sampled_from(DIALECTS),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
            ),
            max_leaves=20,
        ),
    )
    def test_whatever_comes_is_a_request_or_refused(self, dialect: Any, body: Any) -> None:
        for each in (body, {"model": "m", "max_tokens": 1, "messages": [body], "input": [body]}):
            try:
                request = dialect.request(each)
            except InvalidArgument:
                continue
            assert isinstance(request, Request)

    def test_what_chat_does_not_know_is_passed_on(self) -> None:
        body = {"model": "m", "messages": [USER], "guided_json": {"a": 1}, "user": "me"}
        request = Chat().request(body)
        assert request.extra == {"guided_json": {"a": 1}}
        assert spelled.body(request, "theirs", stream=False) == {
            "guided_json": {"a": 1},
            "model": "theirs",
            "messages": [USER],
        }

    def test_what_goes_on_cannot_replace_what_is_translated(self) -> None:
        request = Request("m", prompt="x", extra={"model": "other", "prompt": "y"})
        body = spelled.body(request, "theirs", stream=True)
        assert (body["model"], body["prompt"], body["stream"]) == ("theirs", "x", True)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidArgument("x"), 400),
        (errors.Unauthenticated("x"), 401),
        (errors.PermissionDenied("x"), 403),
        (errors.Superseded("x"), 403),
        (errors.NotFound("x"), 404),
        (errors.ResourceExhausted("x"), 429),
        (errors.Unavailable("x"), 503),
        (errors.DeadlineExceeded("x"), 504),
    ],
)
def test_an_error_has_a_status_and_the_dialects_own_form(
    dialect: Any, error: errors.MegaflowError, status: int
) -> None:
    assert http_status(error) == status
    said = dialect.failure(error)["error"]
    assert said["message"] == "x"
    assert said["type"]


class TestMessages:
    def test_what_claude_code_sends_is_taken(self) -> None:
        ephemeral = {"type": "ephemeral"}
        request = Messages().request(
            {
                "model": "claude",
                "max_tokens": 10,
                "system": [{"type": "text", "text": "Be.", "cache_control": ephemeral}],
                "thinking": {"type": "adaptive"},
                "metadata": {"user_id": "u"},
                "tools": [
                    {"name": "t", "input_schema": {"type": "object"}, "cache_control": ephemeral}
                ],
                "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
                "stop_sequences": ["END"],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}]},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": "hm", "signature": "s"},
                            {"type": "redacted_thinking", "data": "zz"},
                            {"type": "tool_use", "id": "i", "name": "t", "input": {"k": 1}},
                        ],
                    },
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "i", "content": "r"},
                            {"type": "text", "text": "go on"},
                        ],
                    },
                ],
            }
        )
        assert request.messages == (
            Message("system", (Text("Be."),)),
            Message("user", (Text("a"),)),
            Message("assistant", (Reasoning("hm", "s"), ToolCall("i", "t", '{"k": 1}'))),
            Message("tool", (ToolResult("i", (Text("r"),)),)),
            Message("user", (Text("go on"),)),
        )
        assert request.tool_choice == ToolChoice("required")
        assert request.parallel_tool_calls is False
        assert request.sampling.stop == ("END",)

    def test_effort_and_format_are_translated(self) -> None:
        form = {"type": "json_schema", "schema": {"type": "object"}}
        request = Messages().request(
            {
                "model": "m",
                "max_tokens": 1,
                "messages": [USER],
                "output_config": {"effort": "low", "format": form},
            }
        )
        assert request.reasoning_effort == "low"
        schema = {"name": "output", "schema": {"type": "object"}}
        assert request.response_format == {"type": "json_schema", "json_schema": schema}

    def test_arguments_that_are_no_object_are_kept(self) -> None:
        answer = Completion("m", (ToolCall("i", "t", "{broken"),), "tool_calls")
        (block,) = Messages().reply(Request("m"), answer, STAMP)["content"]
        assert block["input"] == {"_unparsed": "{broken"}


class TestResponses:
    def test_what_codex_sends_is_taken(self) -> None:
        request = Responses().request(
            {
                "model": "codex",
                "instructions": "Be.",
                "input": [
                    {
                        "type": "message",
                        "role": "user",
                        "content": [{"type": "input_text", "text": "a"}],
                    },
                    {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "zz"},
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "b"}],
                    },
                    {"type": "function_call", "call_id": "c", "name": "sh", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "done"},
                ],
                "tools": [{"type": "function", "name": "sh", "parameters": {}, "strict": False}],
                "store": False,
                "include": ["reasoning.encrypted_content"],
                "prompt_cache_key": "k",
                "reasoning": {"effort": "high", "summary": "auto"},
                "text": {"verbosity": "low"},
                "stream": True,
                "parallel_tool_calls": False,
            }
        )
        assert request.messages == (
            Message("system", (Text("Be."),)),
            Message("user", (Text("a"),)),
            Message("assistant", (Text("b"), ToolCall("c", "sh", "{}"))),
            Message("tool", (ToolResult("c", (Text("done"),)),)),
        )
        assert request.reasoning_effort == "high"


class TestWhatUpstreamsSend:
    @given(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
            ),
            max_leaves=20,
        )
    )
    def test_whatever_it_is_it_is_read_or_unavailable(self, raw: Any) -> None:
        for sent in (raw, {"choices": [raw]}, {"choices": [{"message": raw, "delta": raw}]}):
            for read in (
                lambda s: spelled.completion(s, "m"),
                lambda s: list(spelled.Chunks().feed(json.dumps(s))),
            ):
                try:
                    read(sent)
                except Unavailable:
                    continue

    def test_log_probs_of_another_number_than_ids_are_refused(self) -> None:
        choice = {
            "message": {"content": "x"},
            "finish_reason": "stop",
            "token_ids": [1, 2],
            "logprobs": {"content": [{"token": "x", "logprob": -1.0}]},
        }
        with pytest.raises(Unavailable, match="1 log-probs for 2 token ids"):
            spelled.completion({"choices": [choice]}, "m")

    def test_a_stream_without_an_end_is_no_answer(self) -> None:
        chunks = spelled.Chunks()
        assert list(chunks.feed('{"choices":[{"delta":{"content":"x"}}]}')) == [TextDelta("x")]
        with pytest.raises(Unavailable, match="ended before its answer did"):
            chunks.end()

    def test_a_stream_may_end_without_done(self) -> None:
        chunks = spelled.Chunks()
        assert not list(chunks.feed('{"choices":[{"delta":{},"finish_reason":"length"}]}'))
        assert chunks.end() == Finish("length")


class TestServerSentEvents:
    @given(st.lists(st.text(max_size=20), max_size=5), st.integers(1, 9))
    def test_they_come_as_they_went_however_they_are_cut(self, sent: list[str], size: int) -> None:
        data = b"".join(encode({"x": text}, "kind") for text in sent)
        lines = Lines()
        got = [
            json.loads(each)["x"]
            for start in range(0, len(data), size)
            for each in lines.feed(data[start : start + size])
        ]
        assert got == sent

    def test_other_lines_and_line_ends_are_taken(self) -> None:
        stream = b": ping\r\nid: 4\r\ndata: a\r\ndata:b\r\n\r\n\n\ndata: c\n\n"
        assert list(Lines().feed(stream)) == ["a\nb", "c"]

    def test_an_event_without_end_is_refused(self) -> None:
        lines = Lines()
        assert not list(lines.feed(b"x" * 2**24))
        with pytest.raises(Unavailable, match="16 MiB"):
            list(lines.feed(b"x"))
