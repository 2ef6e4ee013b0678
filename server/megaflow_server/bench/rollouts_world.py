"""What the benchmark of rollouts runs: an environment, an agent and a model, which its server imports.

Everything that a rollout says follows from its seed, down to each token, so that whoever has the seed knows what its
rows and its reward must be. What goes wrong is drawn anew in each attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.utils import seeding

from megaflow.agent import Agent, AgentEnv, AgentTask
from megaflow.errors import MegaflowError, ResourceExhausted, Unavailable
from megaflow.generation import Event, Finish, Request, TextDelta, Tokens, Usage
from megaflow.model import Model
from megaflow.plugins import register_agent, register_model

__all__ = ["AGENT", "ENVIRONMENT", "FAULTS", "MODEL", "Expected", "expected"]

AGENT = MODEL = "megaflow-bench-rollouts"
ENVIRONMENT = "megaflow-bench/Nonces-v0"
# What may go wrong in an attempt, by where it does.
FAULTS = ("reset", "step", "busy", "upstream", "torn")

# Prompts have tokens below, answers from here on.
_ANSWERS = 2**20
# Calls of a rollout, and tokens of an answer.
_CALLS, _LENGTH = 2, 16
_DELAY = 0.05


@dataclass(frozen=True)
class Expected:
    """What a rollout must give: `rows` has one for each of its branches, which is one."""

    reward: float
    token_ids: list[int]
    loss_mask: list[int]
    logprobs: list[float]
    weight_versions: list[int | None]


def expected(seed: int) -> Expected:
    """Of the sample with this seed."""
    nonce = _nonce(seeding.np_random(seed)[0])
    ids: list[int] = []
    for _ in range(_CALLS):
        ids.append(nonce)
        ids += _answer(ids)
    generated = [id >= _ANSWERS for id in ids]
    return Expected(
        reward=float(_right(nonce)),
        token_ids=ids,
        loss_mask=[int(one) for one in generated],
        logprobs=[_logprob(id) if one else 0.0 for id, one in zip(ids, generated, strict=True)],
        weight_versions=[_version(nonce) if one else None for one in generated],
    )


def _nonce(generator: Any) -> int:
    return int(generator.integers(_ANSWERS))


def _right(nonce: int) -> bool:
    """Whether the model knows the answer."""
    return nonce % 4 > 0


def _answer(prompt: list[int]) -> list[int]:
    return [_ANSWERS + (prompt[0] + len(prompt) + place) % _ANSWERS for place in range(_LENGTH)]


def _logprob(id: int) -> float:
    return -(id % 97) / 97


def _version(nonce: int) -> int:
    return nonce % 5


class Nonces(gym.Env[Any, Any]):
    """Shows a number of its seed, and wants to hear it."""

    observation_space = gym.spaces.Discrete(_ANSWERS)
    action_space = gym.spaces.Discrete(_ANSWERS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self._fault = (options or {}).get("fault")
        if self._fault == "reset":
            raise RuntimeError("the benchmark has this reset fail")
        self._shown = _nonce(self.np_random)
        return self._shown, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self._fault == "step":
            raise RuntimeError("the benchmark has this step fail")
        return self._shown, float(action == self._shown), True, False, {}


class Asking(Agent):
    """Asks twice, the second time with all that was said, and acts on the last answer.

    Args:
        faults: in which part of the attempts something goes wrong.
    """

    roles = ("policy",)

    def __init__(self, faults: float = 0.0) -> None:
        self._fault = random.choice(FAULTS) if random.random() < faults else None

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        nonce, _ = await env.reset(options={"fault": self._fault})
        said: list[int] = []
        for call in range(_CALLS):
            said.append(int(nonce))
            # Of the second call, so that there are records of an attempt that came to nothing.
            extra = {"fault": self._fault} if self._fault and call else {}
            asked = Request(model="policy", prompt=tuple(said), extra=extra)
            completion = await models["policy"].generate(asked)
            assert completion.token_ids is not None
            said += completion.token_ids
        await env.step(int(completion.text))


class Knowing(Model):
    """Takes 50 ms for an answer, and says right or wrong as the number has it."""

    name = MODEL

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        prompt = [int(id) for id in request.prompt or ()]
        fault = request.extra.get("fault")
        if fault in _REFUSALS:
            raise _REFUSALS[fault]
        await asyncio.sleep(_DELAY)
        nonce, ids = prompt[0], _answer(prompt)
        if fault == "torn":
            ids = ids[: _LENGTH // 2]
        logprobs = tuple(_logprob(id) for id in ids)
        yield Tokens(tuple(ids), logprobs, _version(nonce), None, tuple(prompt))
        if fault == "torn":
            raise Unavailable("the benchmark has this answer break off")
        yield TextDelta(str(nonce if _right(nonce) else (nonce + 1) % _ANSWERS))
        yield Finish("stop", Usage(len(prompt), len(ids)))


_REFUSALS: Mapping[Any, MegaflowError] = {
    "busy": ResourceExhausted("the benchmark has this model be busy"),
    "upstream": Unavailable("the benchmark has this upstream fail"),
}

gym.register(ENVIRONMENT, f"{__name__}:Nonces")
register_agent(AGENT, Asking)
register_model(MODEL, Knowing)
