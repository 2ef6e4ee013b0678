"""An OpenAI-compatible server of the tests' own: token ids and log-probs as vLLM gives them, and faults.

Tokens are bytes (`megaflow_adapters.models.bytes_tokens`), so a conversation extends its prefix exactly.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from megaflow.dialects import Chat, Completions
from megaflow.generation import Request
from megaflow_adapters.models.bytes_tokens import END, prompt_ids

Fault = Literal["cut", "cut-midway", "garbage", "garbage-midway", "hang", "short", "wrong-json"]


@dataclass
class Turn:
    """What one request gets: a status other than 200, a fault, or an answer."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    said: str = "no"
    fault: Fault | None = None
    delay: float = 0.0
    piece: int = 1
    """Characters of a chunk."""


def logprob(position: int, token: int) -> float:
    """Of a token at a position of an answer: a different one for each, so that a mix-up shows."""
    return -0.001 * (position + 1) - token / 1000


class Upstream:
    """The server: `turns` are taken in order, then `default` answers."""

    def __init__(self, default: Callable[[Request], Turn]) -> None:
        self.turns: list[Turn] = []
        self.default = default
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.peers: set[object] = set()
        self.open = 0
        self.gone = 0
        self.url = ""

    async def chat(self, http: web.Request) -> web.StreamResponse:
        return await self._answer(http, Chat())

    async def completions(self, http: web.Request) -> web.StreamResponse:
        return await self._answer(http, Completions())

    async def control(self, http: web.Request) -> web.Response:
        text = await http.text()
        self.posts.append((http.path_qs, json.loads(text) if text else {}))
        return web.json_response({"ok": True})

    async def _answer(self, http: web.Request, dialect: Any) -> web.StreamResponse:
        body = await http.json()
        self.seen.append(body)
        self.headers.append(dict(http.headers))
        assert http.transport is not None
        self.peers.add(http.transport.get_extra_info("peername"))
        asked = {key: value for key, value in body.items() if key != "logprobs"}
        request = dialect.request(asked)
        turn = self.turns.pop(0) if self.turns else self.default(request)
        self.open += 1
        try:
            return await self._turn(http, body, request, turn)
        except (asyncio.CancelledError, ConnectionError):
            self.gone += 1
            raise
        finally:
            self.open -= 1

    async def _turn(
        self, http: web.Request, body: dict[str, Any], request: Request, turn: Turn
    ) -> web.StreamResponse:
        if turn.delay:
            await asyncio.sleep(turn.delay)
        if turn.fault == "hang":
            await asyncio.sleep(3600)
        if turn.fault == "cut":
            assert http.transport is not None
            http.transport.abort()
        if turn.status != 200:
            error = {"error": {"message": turn.said, "type": "x"}}
            return web.json_response(error, status=turn.status, headers=turn.headers)
        if turn.fault == "garbage":
            return web.Response(body=b"\xff\xfe<html>", content_type="text/html")
        if turn.fault == "wrong-json":
            return web.json_response({"hello": 1})
        made = [*json_text(turn).encode(), END]
        if body.get("stream"):
            return await self._stream(http, body, request, turn, made)
        return web.json_response(whole(body, request, turn, made))

    async def _stream(
        self,
        http: web.Request,
        body: dict[str, Any],
        request: Request,
        turn: Turn,
        made: list[int],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        for number, chunk in enumerate(chunks(body, request, turn, made)):
            if turn.fault and turn.fault.endswith("midway") and number == 3:
                if turn.fault == "cut-midway":
                    assert http.transport is not None
                    http.transport.abort()
                await response.write(b"data: {not json\n\n")
            if turn.fault == "short" and number == 3:
                return response
            data = "[DONE]" if chunk is None else json.dumps(chunk)
            # In two pieces: a reader may not count on events that come whole.
            await response.write(b"data: ")
            await response.write(f"{data}\n\n".encode())
        return response


def json_text(turn: Turn) -> str:
    """What the model generated, calls included."""
    return turn.text + "".join(f"<call {name}>{arguments}" for name, arguments in turn.calls)


def _calls(turn: Turn) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(turn.calls)
    ]


def _logprobs(body: dict[str, Any], made: list[int], start: int) -> Any:
    if "messages" not in body:
        return {
            "tokens": [chr(token) for token in made],
            "token_logprobs": [logprob(start + n, token) for n, token in enumerate(made)],
            "top_logprobs": None,
            "text_offset": [],
        }
    content: list[dict[str, Any]] = [
        {
            "token": chr(token),
            "logprob": logprob(start + n, token),
            "bytes": None,
            "top_logprobs": [],
        }
        for n, token in enumerate(made)
    ]
    return {"content": content}


def _usage(request: Request, made: list[int]) -> dict[str, int]:
    asked = len(prompt_ids(request))
    return {
        "prompt_tokens": asked,
        "completion_tokens": len(made),
        "total_tokens": asked + len(made),
    }


def whole(body: dict[str, Any], request: Request, turn: Turn, made: list[int]) -> dict[str, Any]:
    """A whole answer."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "tool_calls" if turn.calls else "stop"}
    if "messages" in body:
        choice["message"] = {"role": "assistant", "content": turn.text or None}
        if turn.calls:
            choice["message"]["tool_calls"] = _calls(turn)
    else:
        choice["text"] = turn.text
    if body.get("logprobs") not in (None, False):
        choice["logprobs"] = _logprobs(body, made, 0)
    if body.get("return_token_ids"):
        choice["token_ids"] = made
    out = {"id": "up", "object": "x", "created": 1, "model": body["model"], "choices": [choice]}
    out["usage"] = _usage(request, made)
    if body.get("return_token_ids"):
        out["prompt_token_ids"] = list(prompt_ids(request))
    return out


def chunks(body: dict[str, Any], request: Request, turn: Turn, made: list[int]) -> list[Any]:
    """A stream's data; None is its end."""
    chat = "messages" in body

    def chunk(delta: dict[str, Any], tokens: list[int], start: int, **more: Any) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": None, **more}
        choice |= {"delta": delta} if chat else {"text": delta.get("content", "")}
        if body.get("logprobs") not in (None, False) and tokens:
            choice["logprobs"] = _logprobs(body, tokens, start)
        if body.get("return_token_ids"):
            choice["token_ids"] = tokens
        return {"id": "up", "object": "x", "created": 1, "model": "m", "choices": [choice]}

    out: list[Any] = [chunk({"role": "assistant", "content": ""}, [], 0)]
    if body.get("return_token_ids"):
        out[0]["prompt_token_ids"] = list(prompt_ids(request))
    at = 0
    for start in range(0, len(turn.text), turn.piece):
        piece = turn.text[start : start + turn.piece]
        size = len(piece.encode())
        out.append(chunk({"content": piece}, made[at : at + size], at))
        at += size
    for n, call in enumerate(_calls(turn)):
        function = call["function"]
        head = {**call, "index": n, "function": {"name": function["name"], "arguments": ""}}
        out.append(chunk({"tool_calls": [head]}, [], at))
        more = {"index": n, "function": {"arguments": function["arguments"]}}
        size = len(f"<call {function['name']}>{function['arguments']}".encode())
        out.append(chunk({"tool_calls": [more]}, made[at : at + size], at))
        at += size
    reason = "tool_calls" if turn.calls else "stop"
    out.append(chunk({}, made[at:], at, finish_reason=reason))
    if (body.get("stream_options") or {}).get("include_usage"):
        out.append({"id": "up", "choices": [], "usage": _usage(request, made)})
    return [*out, None]


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """The application on a port of loopback; its URL."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def said(request: Request) -> Turn:
    """Repeats the last message's text."""
    from megaflow_adapters.models.echo import _said

    return Turn(_said(request))


@asynccontextmanager
async def upstream(default: Callable[[Request], Turn] = said) -> AsyncIterator[Upstream]:
    """A server that runs."""
    server = Upstream(default)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/v1/completions", server.completions)
    app.router.add_post("/{rest:.*}", server.control)
    async with serving(app) as url:
        server.url = url
        yield server
