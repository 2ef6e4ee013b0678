"""What the gateway for models adds to a call, with many rollouts at once, and whether it loses or mixes any up."""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from aiohttp import web

from megaflow.calls import CallRecord
from megaflow.errors import Unavailable
from megaflow.generation import Event, Finish, Request, Text, TextDelta, Tokens, Usage
from megaflow.model import Model
from megaflow_server.bench.gateway_askers import Answers
from megaflow_server.bench.processes import child, cpu, resident
from megaflow_server.models.app import application, runner
from megaflow_server.models.sessions import ModelSession, ModelSessions


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        rollouts: sessions, which call in turn.
        rate: calls a second, of all of them.
        delay: seconds that the model takes.
        prompt: characters of a prompt, and tokens.
        completion: tokens of an answer.
        seconds: how long.
        stream: whether answers are asked for as streams.
    """

    rollouts: int = 2000
    rate: float = 200.0
    delay: float = 0.05
    prompt: int = 4000
    completion: int = 200
    seconds: float = 20.0
    stream: bool = False


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        overhead: seconds that calls took beyond the model's delay, as their callers saw it.
        crossed, failed, lost: calls with another's answer, without an answer, without a record of their own.
        cpu: seconds of a core that the gateway's process took for a call.
        memory: bytes that the gateway's process grew by, its records included.
    """

    overhead: list[float]
    crossed: int
    failed: int
    lost: int
    cpu: float
    memory: int


class _Waiting(Model):
    """Repeats what the user said last, after a while, with as many token ids as were asked for."""

    name = "waiting"

    def __init__(self, plan: Plan) -> None:
        self._delay = plan.delay
        self._prompt = tuple(range(plan.prompt))
        self._ids = tuple(range(plan.completion))
        self._logprobs = tuple(-0.001 * id for id in self._ids)

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        await asyncio.sleep(self._delay)
        said = request.messages[-1].parts[0]
        assert isinstance(said, Text)
        yield Tokens(self._ids, self._logprobs, 1, None, self._prompt)
        yield TextDelta(said.text)
        yield Finish("stop", Usage(len(self._prompt), len(self._ids)))


def measure(plan: Plan, say: Callable[[str], None]) -> Figures:
    """Serve in this process, call from another."""
    return asyncio.run(_measure(plan, say))


async def _measure(plan: Plan, say: Callable[[str], None]) -> Figures:
    sessions, kept = ModelSessions(), defaultdict[str, list[str]](list)

    async def keep(record: CallRecord) -> None:
        kept[record.rollout_id].append(record.messages[-1]["content"])

    model = _Waiting(plan)
    tokens = [
        sessions.open(ModelSession(rollout_id=str(n), models={"policy": model}, sink=keep))
        for n in range(plan.rollouts)
    ]
    before = resident("self")
    serving = runner(application(sessions))
    await serving.setup()
    try:
        site = web.TCPSite(serving, "127.0.0.1", 0, backlog=4096)
        await site.start()
        host, port = serving.addresses[0][:2]
        say(f"{plan.rollouts:,} rollouts, {plan.rate:g} calls/s, {plan.seconds:g} s")
        began = cpu(os.getpid())
        answers = await asyncio.to_thread(_answers, plan, f"http://{host}:{port}", tokens)
    finally:
        await serving.cleanup()
    taken = cpu(os.getpid()) - began
    memory = resident("self") - before
    return Figures(
        overhead=[seconds - plan.delay for seconds in answers.seconds],
        crossed=answers.crossed + _strays(kept),
        failed=answers.failed,
        lost=_lost(plan, kept),
        cpu=taken / sum(map(len, kept.values())) if kept else 0.0,
        memory=memory,
    )


def _answers(plan: Plan, url: str, tokens: list[str]) -> Answers:
    asked = {
        "url": url,
        "tokens": tokens,
        "rate": plan.rate,
        "seconds": plan.seconds,
        "prompt": plan.prompt,
        "stream": plan.stream,
    }
    with child("gateway_askers", asked) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
    if not line:
        raise Unavailable("the callers ended early: they say why above")
    return Answers(**json.loads(line))


def _strays(kept: dict[str, list[str]]) -> int:
    """Records that stand in another rollout's trajectory."""
    return sum(
        nonce.partition("-")[0] != rollout for rollout, nonces in kept.items() for nonce in nonces
    )


def _lost(plan: Plan, kept: dict[str, list[str]]) -> int:
    """Calls without a record, or with several; the second that warms up counts too."""
    counts: dict[str, int] = defaultdict(int)
    for nonces in kept.values():
        for nonce in nonces:
            counts[nonce.partition("-")[2]] += 1
    warm, calls = int(plan.rate), int(plan.rate * plan.seconds)
    return sum(
        counts[str(number)] != (number < warm) + (number < calls)
        for number in range(max(warm, calls))
    )
