"""A process of rollouts that call models over HTTP at a steady rate, and how long their answers take.

The calls begin when they are due, whatever became of those before (an open loop), each with a nonce that a right
answer repeats.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import aiohttp

from megaflow_server.bench.processes import asked_of_child


@dataclass
class Answers:
    """What came of it.

    Attributes:
        seconds: that calls took, from when they were due.
        crossed: answers that were another call's.
        failed: calls without an answer.
    """

    seconds: list[float] = field(default_factory=list)
    crossed: int = 0
    failed: int = 0


class Rollouts:
    """Callers of one gateway, a token each."""

    def __init__(self, url: str, tokens: Sequence[str], filler: str, stream: bool) -> None:
        self._url = url
        self._tokens = tokens
        self._filler = filler
        self._stream = stream
        self.answers = Answers()

    async def call(self, rate: float, seconds: float) -> None:
        """Call for so long, each rollout in its turn."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as client:
            began = time.perf_counter()
            async with asyncio.TaskGroup() as calls:
                for number in range(int(rate * seconds)):
                    due = began + number / rate
                    await asyncio.sleep(due - time.perf_counter())
                    calls.create_task(self._one(client, number, due))

    async def _one(self, client: aiohttp.ClientSession, number: int, due: float) -> None:
        rollout = number % len(self._tokens)
        nonce = f"{rollout}-{number}"
        messages = [
            {"role": "system", "content": self._filler},
            {"role": "user", "content": nonce},
        ]
        body = {"model": "policy", "messages": messages, "stream": self._stream}
        url = f"{self._url}/sessions/{self._tokens[rollout]}/v1/chat/completions"
        try:
            async with client.post(url, json=body) as response:
                text = await response.text()
        except aiohttp.ClientError:
            self.answers.failed += 1
            return
        took = time.perf_counter() - due
        if response.status != 200:
            self.answers.failed += 1
        elif f'"{nonce}"' not in text:
            self.answers.crossed += 1
        else:
            self.answers.seconds.append(took)


async def _main() -> None:
    asked = asked_of_child()
    rollouts = Rollouts(asked["url"], asked["tokens"], "x" * asked["prompt"], asked["stream"])
    # Connections and whatever is done once.
    await rollouts.call(asked["rate"], 1.0)
    rollouts.answers = Answers()
    await rollouts.call(asked["rate"], asked["seconds"])
    print(json.dumps(asdict(rollouts.answers)), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
