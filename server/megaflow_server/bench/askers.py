"""A process of clients that ask a full server for sessions, and how long the refusals take.

They ask with as little work of their own as there can be, over one connection, and take what others leave of the
machine's cores: clients are on machines of their own in truth, and would take nothing from the server and from those
that it has admitted. Refusals look slower for it, never faster.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from megaflow.protocol import failures
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.hello import REQUEST_KEY
from megaflow.transport.channels import aio_channel
from megaflow.transport.credentials import Target
from megaflow_server.bench.processes import asked_of_child

_OPEN_SESSION = "/megaflow.v1.Gateway/OpenSession"
# Longer than any answer takes that the benchmark could be pleased with; seconds.
_PATIENCE = 30.0


@dataclass
class Asked:
    """What came of it.

    Attributes:
        refused: seconds that refusals took, from when they were to be asked for.
        asked_for: seconds in which they were asked for.
        told: seconds after which clients were told to come back, one for each.
    """

    refused: list[float] = field(default_factory=list)
    asked_for: float = 0.0
    told: list[float] = field(default_factory=list)


class Askers:
    """Clients of one server, which asks for sessions of this environment."""

    def __init__(self, channel: grpc.aio.Channel, env: str) -> None:
        self._call: Any = channel.unary_unary(_OPEN_SESSION)
        self._spec = pb.EnvironmentSpec(makers=[pb.Maker(id=env)])
        self.asked = Asked()

    async def patient(self, clients: int, seconds: float) -> None:
        """So many clients, each of whom comes back after as long as it was told."""
        begin = time.perf_counter()

        async def live(at: float) -> None:
            while at < begin + seconds:
                await asyncio.sleep(at - time.perf_counter())
                told = await self._ask(at)
                at = time.perf_counter() + told

        await asyncio.gather(*(live(begin + i / clients) for i in range(clients)))
        self.asked.asked_for = seconds

    async def impatient(self, rate: float, seconds: float) -> None:
        """So many calls a second, whether the ones before were answered or not."""
        begin = time.perf_counter()
        asking = set()
        for i in range(int(rate * seconds)):
            at = begin + i / rate
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            asking.add(asyncio.create_task(self._ask(at)))
        await asyncio.gather(*asking)
        self.asked.asked_for = max(seconds, time.perf_counter() - begin)

    async def _ask(self, at: float) -> float:
        """Asks once: when to come back."""
        request_id = secrets.token_hex(16)
        request = pb.OpenSessionRequest(request_id=request_id, environment=self._spec)
        try:
            await self._call(
                request.SerializeToString(),
                timeout=_PATIENCE,
                metadata=((REQUEST_KEY, request_id),),
            )
        except grpc.aio.AioRpcError as error:
            message = failures.message_of(error)
            if message is None or message.kind != "ResourceExhausted":
                raise
        else:
            raise RuntimeError("a server that was to be full has opened a session")
        self.asked.refused.append(time.perf_counter() - at)
        self.asked.told.append(message.retry_after)
        return message.retry_after


async def _main(address: str, env: str, kind: str, size: float, seconds: float) -> Asked:
    async with aio_channel(Target(address)) as channel:
        await channel.channel_ready()
        print("asking", flush=True)
        askers = Askers(channel, env)
        if kind == "patient":
            await askers.patient(int(size), seconds)
        else:
            await askers.impatient(size, seconds)
        return askers.asked


if __name__ == "__main__":
    os.nice(19)
    print(json.dumps(vars(asyncio.run(_main(**asked_of_child())))))
