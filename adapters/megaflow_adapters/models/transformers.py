"""A model in this very process, by transformers: for small ones, and where a CPU is all there is.

Calls that come while others are under way wait for these, and then go together, as one batch. Needs torch and
transformers (the extra `transformers`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForCausalLM, AutoTokenizer

from megaflow.dialects.chat_messages import messages_json
from megaflow.errors import InvalidArgument, Unavailable
from megaflow.generation import (
    Event,
    Finish,
    FinishReason,
    Image,
    Request,
    TextDelta,
    Tokens,
    Usage,
    WeightVersion,
)
from megaflow.model import Model
from megaflow_adapters.models.decoding import Row, generate
from megaflow_adapters.models.settings import checked
from megaflow_adapters.models.spelling import Spelling

__all__ = ["TransformersModel"]


class TransformersModel(Model):
    """A causal language model and its tokenizer.

    Args:
        model, tokenizer: as `from_pretrained` gives them.
        name: what it calls itself.
        max_batch: calls that are generated together.
        max_new_tokens: of an answer whose caller sets no limit.
        weight_version: of the weights as they are.
    """

    # A folder, where it is no name on the hub.
    paths: ClassVar[frozenset[str]] = frozenset({"model"})

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "transformers",
        max_batch: int = 32,
        max_new_tokens: int = 512,
        weight_version: WeightVersion | None = 0,
    ) -> None:
        self.name = name
        self.weight_version = weight_version
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._max_batch = max_batch
        self._max_new_tokens = max_new_tokens
        self._ends = _ends(model, tokenizer)
        self._room = getattr(model.config, "max_position_embeddings", None)
        self._waiting: deque[_Call] = deque()
        self._running: asyncio.Task[None] | None = None
        self._weights = asyncio.Lock()
        # One thread: what torch computes in it uses all the cores by itself.
        self._thread = ThreadPoolExecutor(1, "transformers")

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> TransformersModel:
        """A table with `model`, a folder or a name on the hub, and what `_Table` has beside."""
        table = checked(_Table, settings)
        try:
            tokenizer = AutoTokenizer.from_pretrained(table.model)
            model = AutoModelForCausalLM.from_pretrained(table.model, dtype=table.dtype)
            model.to(table.device)
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidArgument(f"model: {table.model!r} cannot be loaded: {error}") from error
        rest = table.model_dump(exclude={"model", "dtype", "device"})
        return cls(model, tokenizer, name=table.model, **rest)

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """The answer's events as they come."""
        call = _Call(self, request, asyncio.get_running_loop())
        self._waiting.append(call)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            while True:
                event = await call.events.get()
                if isinstance(event, Exception):
                    raise Unavailable(f"model {self.name!r} failed: {event}") from event
                yield event
                if isinstance(event, Finish):
                    return
        finally:
            call.gone = True

    async def update_weights(self, version: WeightVersion, state: Mapping[str, Any]) -> None:
        """Load a state dict; batches that begin afterwards have it, and their tokens `version`.

        Raises:
            InvalidArgument: it is not this model's; some of the weights may have been loaded.
        """
        async with self._weights:
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._thread, self._model.load_state_dict, state)
            except RuntimeError as error:
                raise InvalidArgument(f"state: {error}") from error
            self.weight_version = version

    async def close(self) -> None:
        """End the thread; calls that wait fail."""
        if self._running is not None:
            self._running.cancel()
        _fail(self._waiting, RuntimeError("it was closed"))
        self._waiting.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        """Generate what waits, batch after batch."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            async with self._weights:
                batch: list[_Call] = []
                while self._waiting and len(batch) < self._max_batch:
                    call = self._waiting.popleft()
                    if not call.gone:
                        batch.append(call)
                if not batch:
                    return
                rows = [call.row(self.weight_version) for call in batch]
                try:
                    await loop.run_in_executor(self._thread, generate, self._model, rows)
                except asyncio.CancelledError:
                    _fail(batch, RuntimeError("it was closed"))
                    raise
                except Exception as error:  # whatever it is, it is these calls' end and no others'
                    _fail(batch, error)

    def _prompt(self, request: Request) -> list[int]:
        if isinstance(request.prompt, tuple):
            ids = list(request.prompt)
        elif request.prompt is not None:
            ids = self._tokenizer(request.prompt)["input_ids"]
        else:
            ids = self._chat(request)
        if not ids:
            raise InvalidArgument("prompt: is empty")
        if self._room is not None and len(ids) >= self._room:
            raise InvalidArgument(
                f"prompt: {len(ids)} tokens; this model has room for {self._room}, the answer included"
            )
        return ids

    def _chat(self, request: Request) -> list[int]:
        if self._tokenizer.chat_template is None:
            raise InvalidArgument(
                f"messages: model {self.name!r} has no chat template; give a prompt, to /v1/completions"
            )
        if any(isinstance(part, Image) for each in request.messages for part in each.parts):
            raise InvalidArgument("messages: this kind of model takes no images")
        messages = messages_json(request.messages)
        for message in messages:  # templates of models that know text alone take it as one piece
            if isinstance(message.get("content"), list):
                message["content"] = "".join(part["text"] for part in message["content"])
        encoded = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class _Call:
    """A call, between its event loop and the thread that generates."""

    def __init__(
        self, model: TransformersModel, request: Request, loop: asyncio.AbstractEventLoop
    ) -> None:
        _refuse(request)
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.gone = False
        self._loop = loop
        self._prompt = model._prompt(request)
        self._ends = model._ends
        self._sampling = request.sampling
        self._most = self._sampling.max_tokens or model._max_new_tokens
        if model._room is not None:
            self._most = min(self._most, model._room - len(self._prompt))
        self._spelling = Spelling(model._decode, self._sampling.stop)
        self._version: WeightVersion | None = None
        self._made = 0

    def row(self, version: WeightVersion | None) -> Row:
        """Its place in a batch, of weights of this version."""
        self._version = version
        return Row(self._prompt, self._sampling, self._most, self._take)

    def _take(self, token: int, logprob: float) -> bool:
        """In the thread: the next token; whether another is wanted."""
        self._made += 1
        prompt = tuple(self._prompt) if self._made == 1 else None
        ended = token in self._ends
        text = self._spelling.rest() if ended else self._spelling.add(token)
        self._tell(Tokens((token,), (logprob,), self._version, prompt_ids=prompt))
        if text:
            self._tell(TextDelta(text))
        if ended or self._spelling.stopped is not None:
            self._finish("stop")
            return False
        if self._made >= self._most:
            if rest := self._spelling.rest():
                self._tell(TextDelta(rest))
            self._finish("stop" if self._spelling.stopped is not None else "length")
            return False
        return not self.gone

    def _finish(self, reason: FinishReason) -> None:
        usage = Usage(len(self._prompt), self._made)
        self._tell(Finish(reason, usage, self._spelling.stopped))

    def _tell(self, event: Event) -> None:
        if not self.gone:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


def _fail(calls: Iterable[_Call], error: Exception) -> None:
    for call in calls:
        call.events.put_nowait(error)
        call.gone = True  # so that the thread stops, where it is at it


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # A folder, or a name on the hub.
    model: str = Field(min_length=1)
    # What it computes with. Default: what log-probs are exact in.
    dtype: str = "float32"
    # Where. Default: what every machine has.
    device: str = "cpu"
    # Calls that are generated together.
    max_batch: int = Field(default=32, ge=1)
    # Of an answer whose caller sets no limit.
    max_new_tokens: int = Field(default=512, ge=1)
    # Of its tokens.
    weight_version: int | str = 0


def _refuse(request: Request) -> None:
    """InvalidArgument for what this kind of model would have to leave out."""
    sampling = request.sampling
    wanted = {
        "tools": bool(request.tools),
        "response_format": request.response_format is not None,
        "presence_penalty": bool(sampling.presence_penalty),
        "frequency_penalty": bool(sampling.frequency_penalty),
        "repetition_penalty": sampling.repetition_penalty not in (None, 1.0),
    }
    wanted |= {f"{name}": True for name in request.extra}
    if named := [name for name, given in wanted.items() if given]:
        raise InvalidArgument(f"{named[0]}: models of kind transformers do not have it")


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    told = model.generation_config.eos_token_id
    ends = [told] if isinstance(told, int) else list(told or ())
    return frozenset({*ends, tokenizer.eos_token_id} - {None})
