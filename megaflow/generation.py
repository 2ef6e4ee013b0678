"""What a model is asked and what it answers, in one form for all dialects and engines.

A `Request` holds messages or a prompt; a `Completion` is the whole answer. An answer that is still coming is a
row of events, of which the last is `Finish`; `Assembler` makes the completion from them, and `events` the
events from a completion. Token ids are the engine's own; nothing here turns text into tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = [
    "Assembler",
    "CallDelta",
    "CallStart",
    "Completion",
    "Event",
    "Finish",
    "FinishReason",
    "Image",
    "Message",
    "Part",
    "Reasoning",
    "ReasoningDelta",
    "Request",
    "Role",
    "Sampling",
    "Text",
    "TextDelta",
    "Tokens",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolResult",
    "Usage",
    "WeightVersion",
    "events",
]

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "aborted"]
WeightVersion: TypeAlias = int | str
"""A trainer's count, or the name that an engine gives its weights."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image by URL, `data:` ones included."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thought; `signature` is its provider's, and goes back to it untouched."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; `arguments` is the text it generated, JSON or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave: text and images."""

    call_id: str
    content: tuple[Text | Image, ...]
    is_error: bool = False


Part: TypeAlias = Text | Image | Reasoning | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. A message of role `tool` holds exactly one `ToolResult`."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools may, must or must not be called, or which one must."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None leaves it to the engine."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One call: `messages`, or `prompt` as text or token ids.

    Attributes:
        extra: fields that the dialect does not know, for an upstream that may.
        rollout: who asks; calls of one rollout go to one replica where that is cheap.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    sampling: Sampling = Sampling()
    response_format: Mapping[str, Any] | None = None
    reasoning_effort: str | None = None
    stream: bool = False
    include_usage: bool = False
    return_token_ids: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    rollout: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine counts them; None where it does not say."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer.

    Attributes:
        parts: `Text`, `Reasoning` and `ToolCall`, in the order they were generated.
        prompt_token_ids, token_ids: the engine's own; None where it gives none.
        logprobs: of `token_ids`, one each; None where the engine gives none.
        weight_versions: of `token_ids`, one each; None where it is not known.
        token_texts: of `token_ids`, one each, where the engine gives them.
    """

    model: str
    parts: tuple[Text | Reasoning | ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    weight_versions: tuple[WeightVersion, ...] | None = None
    token_texts: tuple[str, ...] | None = None
    stop_sequence: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the model asks for."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More reasoning; a signature comes once, at its end."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; `index` counts the calls of this answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of a call's arguments."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the engine says of the tokens of the events around it; the prompt's ids come once."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None
    version: WeightVersion | None = None
    texts: tuple[str, ...] | None = None
    prompt_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end, once."""

    reason: FinishReason
    usage: Usage | None = None
    stop_sequence: str | None = None


Event: TypeAlias = TextDelta | ReasoningDelta | CallStart | CallDelta | Tokens | Finish


class Assembler:
    """Makes the completion from its events, whole or broken off."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._parts: list[list[Any]] = []
        self._calls: dict[int, list[Any]] = {}
        self._prompt: tuple[int, ...] | None = None
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._versions: list[WeightVersion] = []
        self._texts: list[str] = []
        self._seen_ids = False
        self.finish: Finish | None = None

    def add(self, event: Event) -> None:
        """Take the next event in."""
        match event:
            case TextDelta(text):
                self._open(Text)[1].append(text)
            case ReasoningDelta(text, signature):
                part = self._open(Reasoning)
                part[1].append(text)
                part[2] = signature or part[2]
            case CallStart(index, id, name):
                self._calls[index] = [ToolCall, [], (id, name)]
                self._parts.append(self._calls[index])
            case CallDelta(index, arguments):
                self._calls[index][1].append(arguments)
            case Tokens():
                self._tokens(event)
            case Finish():
                self.finish = event

    def _open(self, kind: type[Text] | type[Reasoning]) -> list[Any]:
        if not self._parts or self._parts[-1][0] is not kind:
            self._parts.append([kind, [], None])
        return self._parts[-1]

    def _tokens(self, event: Tokens) -> None:
        if event.prompt_ids is not None:
            self._prompt = event.prompt_ids
        if event.ids:
            self._seen_ids = True
        self._ids += event.ids
        self._logprobs += event.logprobs or ()
        self._texts += event.texts or ()
        if event.version is not None:
            self._versions += [event.version] * len(event.ids)

    def completion(self) -> Completion:
        """What has come so far; its finish reason is `aborted` where no end came."""
        count = len(self._ids)
        known = self._seen_ids or self._prompt is not None
        finish = self.finish or Finish("aborted")
        return Completion(
            model=self._model,
            parts=tuple(map(_part, self._parts)),
            finish_reason=finish.reason,
            usage=finish.usage,
            prompt_token_ids=self._prompt,
            token_ids=tuple(self._ids) if known else None,
            logprobs=tuple(self._logprobs) if known and len(self._logprobs) == count else None,
            weight_versions=tuple(self._versions)
            if known and len(self._versions) == count
            else None,
            token_texts=tuple(self._texts) if known and len(self._texts) == count else None,
            stop_sequence=finish.stop_sequence,
        )


def _part(raw: Sequence[Any]) -> Text | Reasoning | ToolCall:
    kind, pieces, rest = raw
    text = "".join(pieces)
    if kind is Text:
        return Text(text)
    if kind is Reasoning:
        return Reasoning(text, rest)
    return ToolCall(rest[0], rest[1], text)


def events(completion: Completion) -> Iterator[Event]:
    """The events of a completion that came whole."""
    calls = 0
    if completion.token_ids is not None or completion.prompt_token_ids is not None:
        yield from _token_events(completion)
    for part in completion.parts:
        match part:
            case Text(text):
                yield TextDelta(text)
            case Reasoning(text, signature):
                yield ReasoningDelta(text, signature)
            case ToolCall(id, name, arguments):
                yield CallStart(calls, id, name)
                yield CallDelta(calls, arguments)
                calls += 1
    yield Finish(completion.finish_reason, completion.usage, completion.stop_sequence)


def _token_events(completion: Completion) -> Iterator[Tokens]:
    ids = completion.token_ids or ()
    versions = completion.weight_versions
    edges = [0]
    if versions:
        edges += [i for i in range(1, len(ids)) if versions[i] != versions[i - 1]]
    for number, (start, end) in enumerate(zip(edges, [*edges[1:], len(ids)], strict=True)):
        yield Tokens(
            ids=ids[start:end],
            logprobs=completion.logprobs[start:end] if completion.logprobs is not None else None,
            version=versions[start] if versions else None,
            texts=completion.token_texts[start:end] if completion.token_texts else None,
            prompt_ids=completion.prompt_token_ids if number == 0 else None,
        )
