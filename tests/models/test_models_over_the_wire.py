"""Models behind a server against the same in this process: answers, tokens, log-probs and errors are equal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow import (
    AsyncClient,
    AsyncRemoteModel,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    Model,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Superseded,
    Unauthenticated,
    Unavailable,
)
from megaflow.calls import Price
from megaflow.errors import BudgetExhausted
from megaflow.generation import (
    Assembler,
    Completion,
    Event,
    Finish,
    Image,
    Message,
    Reasoning,
    Request,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
    events,
)
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.protocol.model_events import read_event, write_event
from megaflow.protocol.model_requests import read_request, write_request
from megaflow_adapters.models.echo import EchoModel
from megaflow_adapters.models.scripted import Answer, ScriptedModel
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.auth import METHOD_SCOPES, READ, SESSIONS
from megaflow_server.gateway.listeners import Access
from megaflow_server.gateway.served import ENVIRONMENTS, MODELS, SERVICES, check_served
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.token_file import TokenFile
from megaflow_server.models.call import Call
from megaflow_server.models.catalogue import ServedModel
from megaflow_server.models.service import ModelService
from megaflow_server.worker import in_process
from model_rig import until

SAID = Message("user", (Text("hi"),))
REQUEST = Request("m", (SAID,))
EVERYTHING = Request(
    "m",
    (
        Message("system", (Text("s"),), name="n"),
        Message("user", (Text(""), Image("data:,x", "low"))),
        Message("assistant", (Reasoning("r", "sig"), ToolCall("1", "f", "{no json"))),
        Message("tool", (ToolResult("1", (Text("t"), Image("u")), is_error=True),)),
    ),
    tools=(Tool("f", "d", {"type": "object", "ä": [1.5, None]}, strict=True), Tool("g")),
    tool_choice=ToolChoice("tool", "f"),
    parallel_tool_calls=False,
    sampling=Sampling(7, 0.1, 0.2, 3, 0.4, -0.5, 0.6, 0.7, ("a", "b"), -(2**40), logprobs=True),
    response_format={"type": "json_object"},
    reasoning_effort="low",
    stream=True,
    include_usage=True,
    return_token_ids=True,
    extra={"chat_template_kwargs": {"x": [1]}},
    rollout="r/1",
)
TOKENS = Completion(
    "its-own-name",
    (Reasoning("r", "sig"), Text("ä"), ToolCall("1", "f", '{"a": 1}'), ToolCall("2", "g", "")),
    "tool_calls",
    Usage(3, 4, 1, 2),
    (1, 2, 2**40),
    (5, 6, 7, 8),
    (-0.1, -1e-300, float("-inf"), -7.25),
    (3, 3, "three", 4),
    ("a", "b", "", "ä"),
    stop_sequence="stop",
)
ANSWERS: list[Answer] = [
    "hello",
    ToolCall("1", "f", "{"),
    TOKENS,
    Completion("m", (Text("no tokens"),), "length"),
    Completion("m", (), "content_filter", prompt_token_ids=(), token_ids=(), logprobs=()),
]
ERRORS = [
    InvalidArgument("sampling.top_k: 3; give -1"),
    NotFound("no such model upstream"),
    PermissionDenied("not this key"),
    ResourceExhausted("busy", retry_after=2.5),
    FailedPrecondition("not now"),
    BudgetExhausted("spent", retry_after=60.0),
    Unavailable("the upstream failed"),
    DeadlineExceeded("total_timeout=3: no answer"),
    Superseded("newer"),
]


class Broken(Model):
    """Fails after the first pieces of an answer."""

    name = "broken"

    async def stream(self, request: Request) -> AsyncIterator[Event]:  # type: ignore[override]
        for event in list(events(TOKENS))[:3]:
            yield event
        raise Unavailable("the upstream went away")


class Site:
    """A server with models and no worker: its address, and what answers."""

    def __init__(self, address: str, gateway: Gateway, service: ModelService) -> None:
        self.address = address
        self.gateway = gateway
        self.service = service

    @property
    def under_way(self) -> int:
        return len(self.service._calling)

    async def blocking(self, ask: Callable[[Client], Any]) -> Any:
        """What a blocking client gives, in a thread."""

        def asked() -> Any:
            with Client(self.address) as client:
                return ask(client)

        return await asyncio.to_thread(asked)


@asynccontextmanager
async def serving(
    folder: Path, tokens: TokenFile | None = None, price: Price | None = None, **more: Any
) -> AsyncIterator[Site]:
    """A server; models by name, and options of `ModelService`."""
    models = {name: each for name, each in more.items() if isinstance(each, Model)}
    options = {name: each for name, each in more.items() if name not in models}
    served = {name: ServedModel(name, "test", each, price) for name, each in models.items()}
    settings = GatewaySettings(
        folder=folder,
        listen=["127.0.0.1:0" if tokens else f"unix:{folder / 'models.sock'}"],
        access=Access(token_file=tokens.path) if tokens else Access(),
        max_workers=1,
        warm_workers=0,
        stop_grace=0.1,
    )
    async with (
        Gateway(settings, FakeBackend(in_process.run)) as gateway,
        ModelService(served, **options) as service,
    ):
        gateway.models = service
        yield Site(gateway.addresses[0], gateway, service)


async def outcome(model: Any, request: Any) -> Any:
    """The answer, or what its failure is."""
    try:
        return await model.generate(request)
    except MegaflowError as error:
        return type(error), error.message, error.retry_after


async def told(stream: Any) -> list[Event]:
    async with aclosing(stream) as coming:
        return [event async for event in coming]


@pytest.mark.parametrize("answer", [*ANSWERS, *ERRORS], ids=lambda one: type(one).__name__)
async def test_answers_and_errors_are_those_of_the_same_model_here(
    tmp_path: Path, answer: Answer
) -> None:
    def model() -> ScriptedModel:
        return ScriptedModel([answer], name="its-own-name", repeat=True, weight_version="v")

    here = await outcome(model(), REQUEST)
    async with serving(tmp_path, m=model()) as site, AsyncClient(site.address) as client:
        assert await outcome(client.model("m"), REQUEST) == here
        assert await site.blocking(lambda other: run_outcome(other.model("m"))) == here
        if isinstance(answer, MegaflowError):
            return
        streamed = await told(client.model("m").stream(REQUEST))
        assert streamed == await told(model().stream(REQUEST))
        assert await site.blocking(lambda other: list(other.model("m").stream(REQUEST))) == streamed


def run_outcome(model: Any) -> Any:
    try:
        return model.generate(REQUEST)
    except MegaflowError as error:
        return type(error), error.message, error.retry_after


async def test_a_model_is_asked_what_it_is_asked_here(tmp_path: Path) -> None:
    seen: list[Request] = []

    def note(request: Request) -> str:
        seen.append(request)
        return "noted"

    # So large that what they would take in memory is counted before they are read.
    shown = ToolResult("1", (Text("x" * 2**15), Image("u")))
    large = [
        replace(EVERYTHING, messages=(*EVERYTHING.messages, Message("tool", (shown,)))),
        Request("m", prompt=tuple(range(300_000))),
    ]
    tool = Tool("f")
    prompt, sampling = Request("m", prompt=(1, 2**40), sampling=Sampling(1)), Sampling(seed=1)
    async with (
        serving(tmp_path, m=ScriptedModel(note)) as site,
        AsyncClient(site.address) as client,
    ):
        model = client.model("m")
        await model.generate(EVERYTHING)
        for request in large:
            await model.generate(request)
        await model.generate(replace(prompt, model="whatever"))
        await model.generate("hi", sampling=sampling, tools=[tool])
        await model.generate([SAID, SAID])
        await model.generate([1, 2])
        await site.blocking(lambda other: other.model("m").generate("hi", tools=[tool]))
    assert seen == [
        EVERYTHING,
        *large,
        prompt,
        Request("m", (SAID,), tools=(tool,), sampling=sampling),
        Request("m", (SAID, SAID)),
        Request("m", prompt=(1, 2)),
        Request("m", (SAID,), tools=(tool,)),
    ]


async def test_an_answer_that_breaks_off_is_an_error_after_its_beginning(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, m=Broken()) as site,
        AsyncClient(site.address) as client,
    ):
        async with aclosing(client.model("m").stream(REQUEST)) as stream:
            assert [await anext(stream) for _ in range(3)] == list(events(TOKENS))[:3]
            with pytest.raises(Unavailable, match="the upstream went away"):
                await anext(stream)
        with pytest.raises(Unavailable, match="the upstream went away"):
            await client.model("m").generate(REQUEST)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request("m", (SAID,), sampling=Sampling(temperature="hot")), "sampling.temperature='hot'"),  # type: ignore[arg-type]
        (Request("m", (SAID,), sampling=Sampling(seed=2**70)), "sampling.seed="),
        (Request("m", (SAID,), sampling=Sampling(stop="ab")), "sampling.stop='ab': give a tuple"),  # type: ignore[arg-type]
        (Request("m", prompt=("a",)), "prompt.ids="),  # type: ignore[arg-type]
        (Request("m", prompt="\ud800"), "prompt.text="),
        (Request("m", (SAID,), prompt="x"), "prompt: a request has messages or a prompt"),
        (Request("m"), "messages: is empty, and there is no prompt"),
        (Request("m", ("hi",)), "messages[0]: str is no"),  # type: ignore[arg-type]
        (Request("m", (Message("bot", (Text("x"),)),)), "messages[0].role='bot': give one of"),  # type: ignore[arg-type]
        (Request("m", (Message("tool", (Text("x"),)),)), "messages[0].parts: a message of role"),
        (Request("m", (SAID,), tools=(Tool("f", None, {"a": {1}}),)), "tools[0].parameters: is no"),
        (Request("m", (SAID,), tool_choice=ToolChoice("tool")), "tool_choice.name: "),
        (Request("m", (SAID,), extra={"a": object()}), "extra: is no JSON"),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(tmp_path: Path, request_: Request, says: str) -> None:
    async with (
        serving(tmp_path, m=EchoModel()) as site,
        AsyncClient(site.address) as client,
    ):
        with pytest.raises(InvalidArgument) as refused:
            await client.model("m").generate(request_)
        assert says in refused.value.message


async def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, policy=EchoModel()) as site:
        async with AsyncClient(site.address) as client:
            with pytest.raises(NotFound, match=r"'polcy' is no model .*; did you mean 'policy'"):
                await client.model("polcy").generate("hi")
            site.gateway.models = None
            for call in (client.model("policy").generate("hi"), client.models()):
                with pytest.raises(FailedPrecondition, match=r"a table \[models.NAME\]"):
                    await call
            with pytest.raises(InvalidArgument, match="timeout=0"):
                client.model("policy", timeout=0)
            with pytest.raises(InvalidArgument, match="the request's own"):
                await client.model("policy").generate(REQUEST, sampling=Sampling(1))
        with pytest.raises(FailedPrecondition, match="closed"):
            await client.model("policy").generate("hi")


async def test_models_are_listed_with_what_is_known_of_them(tmp_path: Path) -> None:
    price = Price(1.0, 2.0, 0.5)

    class Paused(EchoModel):
        """As a trainer has it while it updates weights."""

        paused = True
        pause = update_weights = resume = EchoModel.close

    here = serving(tmp_path, price=price, b=Paused(name="its"), a=EchoModel())
    async with here as site:
        listed = await site.blocking(lambda client: client.models())
        assert [(one.name, one.kind, one.model) for one in listed] == [
            ("a", "test", "echo"),
            ("b", "test", "its"),
        ]
        assert [(one.price, one.state, one.weight_version) for one in listed] == [
            (price, "serving", None),
            (price, "paused", 0),
        ]


@pytest.mark.parametrize("how", ["deadline", "cancelled", "closed early", "closed early, blocking"])
async def test_a_call_that_nobody_waits_for_is_given_up(tmp_path: Path, how: str) -> None:
    gone = threading.Event()

    class Endless(Model):
        name = "endless"

        async def stream(self, request: Request) -> AsyncIterator[Event]:  # type: ignore[override]
            try:
                yield next(events(TOKENS))
                await asyncio.sleep(3600)
            finally:
                gone.set()

    async with (
        serving(tmp_path, m=Endless()) as site,
        AsyncClient(site.address) as client,
    ):
        if how == "deadline":
            with pytest.raises(DeadlineExceeded, match=r"timeout=0\.2: model 'm'"):
                await client.model("m", timeout=0.2).generate("hi")
        elif how == "cancelled":
            task = asyncio.create_task(client.model("m").generate("hi"))
            await until(lambda: site.under_way == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "closed early":
            async with aclosing(client.model("m").stream("hi")) as stream:
                await anext(stream)
        else:
            assert await site.blocking(lambda other: closed_early(other) and gone.wait(20))
        await until(gone.is_set)
        await until(lambda: site.under_way == 0)


def closed_early(client: Client) -> bool:
    stream: Any = client.model("m").stream("hi")
    next(stream)
    stream.close()
    return True


async def test_a_whole_answer_is_one_message_and_a_stream_many(tmp_path: Path) -> None:
    asked = Request("m", (SAID,))
    async with (
        serving(tmp_path, m=ScriptedModel([TOKENS], repeat=True)) as site,
        grpc.aio.insecure_channel(site.address) as channel,
    ):
        stub: Any = pb_grpc.ModelsStub(channel)
        for whole, count in ((True, 1), (False, len(list(events(TOKENS))))):
            call = stub.Generate(write_request(asked, whole=whole), timeout=20)
            assert len([message async for message in call]) == count


async def test_a_thousand_calls_at_once_take_no_thread_each(tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Gated(EchoModel):
        async def stream(self, request: Request) -> AsyncIterator[Event]:  # type: ignore[override]
            if request.messages != (SAID,):
                await gate.wait()
            async for event in super().stream(request):
                yield event

    async with (
        serving(tmp_path, m=Gated()) as site,
        AsyncClient(site.address) as client,
    ):
        model = client.model("m")
        await model.generate("hi")
        before = threading.active_count()
        calls = [asyncio.create_task(model.generate(str(n))) for n in range(1000)]
        await until(lambda: site.under_way == 1000, 60)
        assert threading.active_count() <= before + 2
        gate.set()
        answers = await asyncio.gather(*calls)
        assert [answer.text for answer in answers] == [str(n) for n in range(1000)]


async def test_a_tenants_rate_and_money_count(tmp_path: Path) -> None:
    daily = {"local": 1e-6}
    async with (
        serving(tmp_path, m=EchoModel(), price=Price(1.0, 1.0), daily=daily) as site,
        AsyncClient(site.address) as client,
    ):
        await client.model("m").generate("hi")
        with pytest.raises(BudgetExhausted, match="tenant local") as spent:
            await client.model("m").generate("hi")
        assert spent.value.retry_after is not None
    (folder := tmp_path / "rate").mkdir()
    async with (
        serving(folder, m=EchoModel(), rates={"local": 10.0}) as site,
        AsyncClient(site.address) as client,
    ):
        await client.model("m").generate("hi")
        with pytest.raises(ResourceExhausted, match="10 calls a minute") as fast:
            await client.model("m").generate("hi")
        assert fast.value.retry_after == pytest.approx(6, abs=1)


async def test_tokens_open_models_by_their_scopes_and_end_with_their_calls(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    mine, text = tokens.create("ann", frozenset({SESSIONS}))
    _, reading = tokens.create("bob", frozenset({READ}))
    holders = {"ann", "bob"}
    slow = EchoModel(delay=3600)
    async with serving(tmp_path, tokens, m=slow, holders=lambda: holders) as site:
        async with AsyncClient(site.address, token=reading) as client:
            assert [one.name for one in await client.models()] == ["m"]
            with pytest.raises(PermissionDenied, match="the scope sessions"):
                await client.model("m").generate("hi")
        async with AsyncClient(site.address, token=text) as client:
            call = asyncio.create_task(client.model("m").generate("hi"))
            await until(lambda: site.under_way == 1)
            tokens.revoke(mine.id)
            holders.discard("ann")
            with pytest.raises(Unauthenticated, match="no token any more"):
                await asyncio.wait_for(call, 20)


async def test_the_servers_end_and_the_clients_are_typed(tmp_path: Path) -> None:
    async with serving(tmp_path, m=EchoModel(delay=3600)) as site:
        client = AsyncClient(site.address)
        call = asyncio.create_task(client.model("m").generate("hi"))
        await until(lambda: site.under_way == 1)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(call, 20)
    await client.close()
    (other := tmp_path / "other").mkdir()
    async with serving(other, m=EchoModel(delay=3600)) as site:
        client = AsyncClient(site.address)
        call = asyncio.create_task(client.model("m").generate("hi"))
        await until(lambda: site.under_way == 1)
        await client.close()
        with pytest.raises(Unavailable, match="its client was closed"):
            await asyncio.wait_for(call, 20)


async def test_a_server_that_is_to_end_waits_for_calls_and_takes_no_more(tmp_path: Path) -> None:
    slow = ScriptedModel(lambda request: "done", delay=0.5)
    stuck = EchoModel(delay=3600)
    async with (
        serving(tmp_path, slow=slow, stuck=stuck) as site,
        AsyncClient(site.address) as client,
    ):
        calls = [asyncio.create_task(client.model(m).generate("hi")) for m in ("slow", "stuck")]
        await until(lambda: site.under_way == 2)
        draining = asyncio.create_task(site.gateway.drain(grace=2.0, hurry=asyncio.Event()))
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable, match="takes nothing new"):
            await client.model("slow").generate("hi")
        assert (await calls[0]).text == "done"
        with pytest.raises(Unavailable, match="waited for calls no longer"):
            await calls[1]
        await draining


async def test_a_request_over_the_wires_limit_is_told_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megaflow.remote_model.CHUNK_BYTES", 1000)
    async with (
        serving(tmp_path, m=EchoModel()) as site,
        AsyncClient(site.address) as client,
    ):
        with pytest.raises(InvalidArgument, match=r"the request is 10\d\d bytes, and the wire"):
            await client.model("m").generate("x" * 1000)


async def test_it_is_a_model_wherever_one_is_asked_for(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, m=ScriptedModel([TOKENS], repeat=True)) as site,
        AsyncClient(site.address) as client,
    ):
        remote: Model = client.model("m")
        assert isinstance(remote, AsyncRemoteModel)
        # A second service answers with it, as with any other.
        asked = Request("theirs", (SAID,))
        async with ModelService({"theirs": ServedModel("theirs", "x", remote, None)}) as service:
            with service.call("ann", asked) as session:
                whole = await Call(session, asked, "chat").completion()
    assert replace(whole, model=TOKENS.model) == TOKENS


def test_who_asks_for_what_is_not_served_is_told_what_is() -> None:
    for method in METHOD_SCOPES:
        check_served(method, SERVICES)
        models = "/megaflow.v1.Models/" in method
        hello = method.endswith(("/Hello", "/RenewLeases"))
        for served, allowed in ((ENVIRONMENTS, not models), (MODELS, models or hello)):
            if allowed:
                check_served(method, {served})
                continue
            with pytest.raises(FailedPrecondition, match=f"serves {served} alone, and no"):
                check_served(method, {served})


ids = st.integers(-(2**63), 2**63 - 1)
numbers = st.floats(allow_nan=False)


@given(
    st.lists(ids).map(tuple),
    st.none() | st.lists(ids).map(tuple),
    st.none() | st.lists(numbers).map(tuple),
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
    st.none() | st.builds(Usage, st.integers(0, 99), st.integers(0, 99), st.none() | st.just(0)),
    st.none() | st.text(st.characters(codec="utf-8")),
)
def test_events_come_back_as_they_were(
    token_ids: Any, prompt: Any, logprobs: Any, version: Any, usage: Any, stop: Any
) -> None:
    whole = replace(TOKENS, token_ids=token_ids, prompt_token_ids=prompt, token_texts=None)
    whole = replace(whole, weight_versions=None if version is None else (version,) * len(token_ids))
    if logprobs is not None:
        whole = replace(whole, logprobs=(logprobs * len(token_ids))[: len(token_ids)] or None)
    row = [*events(whole), Finish("stop", usage, stop)]
    sent = [pb.ModelEvent.FromString(write_event(event).SerializeToString()) for event in row]
    assert [read_event(one) for one in sent] == row
    assembler = Assembler("m")
    for one in sent:
        event = read_event(one)
        assert event is not None
        assembler.add(event)


def test_a_request_comes_back_as_it_was() -> None:
    for request in (EVERYTHING, REQUEST, Request("m", prompt=""), Request("m", prompt=(1,))):
        written = write_request(request, whole=True).SerializeToString()
        assert read_request(pb.GenerateRequest.FromString(written)) == request
