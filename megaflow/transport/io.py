"""One implementation for blocking and asyncio callers.

Whatever the SDK does with a network is written once, as coroutines over the protocols of this module. Their
blocking implementations never suspend, so that `run` takes such a coroutine to its end on the calling
thread: no event loop, no other thread, and Ctrl-C ends a wait where it stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from google.protobuf.message import Message

from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow.protocol.hello import REQUEST_KEY, TENANT_KEY
from megaflow.transport import handshake, interrupts
from megaflow.transport.channels import Channel
from megaflow.transport.credentials import Target
from megaflow.transport.machine import Verb
from megaflow.transport.slots import Lent
from megaflow.transport.stream import ShardChannel

T = TypeVar("T")

# How a wait ends that nobody wants to go on with: what was asked for is abandoned then.
INTERRUPTS = (KeyboardInterrupt, interrupts.Interrupted, asyncio.CancelledError)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends; see interrupts.py for what Ctrl-C does to it."""
    try:
        deferral = interrupts.defer()
    except BaseException:
        coroutine.close()
        raise
    if deferral is None:
        return _finished(coroutine)
    try:
        return _finished(coroutine)
    except interrupts.Interrupted as interrupted:
        raise interrupted.error from None
    finally:
        deferral.end()


def _finished(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    except RuntimeError as error:
        # Python does not let a coroutine raise StopIteration, which an environment may.
        if isinstance(error.__cause__, StopIteration):
            raise error.__cause__ from error.__cause__.__cause__
        raise
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for something that only an event loop can give it")


def left(end: float | None) -> float | None:
    """Seconds until a moment of the monotonic clock, never below 0; None: no end."""
    return None if end is None else max(0.0, end - time.monotonic())


class Caller(Protocol):
    """How the control plane's methods are called."""

    async def call(
        self,
        method: str,
        request: Message,
        *,
        timeout: float | None,
        wait_for_ready: bool = False,
    ) -> Any:
        """The answer. Raises grpc.RpcError."""
        ...

    def stream(self, method: str, requests: Any, *, timeout: float | None = None) -> Any:
        """A call of a method with streams: an iterator of what comes, asynchronous where its requests are.

        Args:
            timeout: seconds for all of it; None: no limit.
        """
        ...

    async def explain(self) -> str | None:
        """What is wrong with the encryption of a connection that does not come about; None: nothing."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def close(self) -> None:
        """Gives the connection back. Idempotent."""
        ...


def shown(metadata: tuple[tuple[str, str], ...], request: Message) -> tuple[tuple[str, str], ...]:
    """What a call shows before its request: this, the request's id where it may come again, and whom it is for.

    A server that refuses new requests need not read it, to know that it is one, and whose quota it would count for.
    """
    if request_id := getattr(request, "request_id", ""):
        metadata = (*metadata, (REQUEST_KEY, request_id))
    if tenant := getattr(request, "tenant", ""):
        metadata = (*metadata, (TENANT_KEY, quote(tenant, safe="")))
    return metadata


def stubs(channel: Any) -> dict[str, Any]:
    """What calls each method of the control plane, over a blocking or an asyncio channel; no two share a name."""
    services = (pb_grpc.GatewayStub, pb_grpc.TasksStub, pb_grpc.ModelsStub, pb_grpc.RunnersStub)
    return {name: call for each in services for name, call in vars(each(channel)).items()}


class BlockingCaller:
    """See `Caller`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel = Channel(target)
        self._metadata = target.metadata
        self._stubs = stubs(self._channel.grpc)

    async def call(
        self,
        method: str,
        request: Message,
        *,
        timeout: float | None,
        wait_for_ready: bool = False,
    ) -> Any:
        with interrupts.interruptible():
            return self._stubs[method](
                request,
                timeout=timeout,
                wait_for_ready=wait_for_ready,
                metadata=shown(self._metadata, request),
            )

    def stream(self, method: str, requests: Any, *, timeout: float | None = None) -> Any:
        return self._stubs[method](requests, metadata=self._metadata, timeout=timeout)

    async def explain(self) -> str | None:
        with interrupts.interruptible():
            return handshake.explain(self._target)

    async def sleep(self, seconds: float) -> None:
        with interrupts.interruptible():
            time.sleep(seconds)  # noqa: ASYNC251  # never on an event loop

    async def close(self) -> None:
        self._channel.close()


class ShardIO(Protocol):
    """A shard's stream, awaited: what `ShardChannel` is to blocking callers."""

    async def send(self, verb: Verb) -> int:
        """Sends a verb; its sequence number, to wait for. Raises StreamBroken."""
        ...

    async def wait(self, sequence: int, timeout: float | None) -> pb.Reply:
        """The next part of the reply. Raises ReplyTimeout after so many seconds, and StreamBroken."""
        ...

    def poll(self, sequence: int) -> pb.Reply | None:
        """The next part of the reply where it is there; never waits. Raises StreamBroken."""
        ...

    def slot(self) -> Lent | None:
        """Memory for the observations of a step or reset, which is sent its number; None where they come with it."""
        ...

    async def close(self) -> None:
        """Ends the stream. Idempotent."""
        ...


class BlockingShard:
    """A blocking channel as `ShardIO`."""

    def __init__(self, channel: ShardChannel) -> None:
        self.channel = channel

    async def send(self, verb: Verb) -> int:
        return self.channel.send(verb)

    async def wait(self, sequence: int, timeout: float | None) -> pb.Reply:
        return self.channel.wait(sequence, timeout)

    def poll(self, sequence: int) -> pb.Reply | None:
        return self.channel.poll(sequence)

    def slot(self) -> Lent | None:
        return self.channel.slot()

    async def close(self) -> None:
        self.channel.close()
