"""The sandbox of an attempt, for an agent that runs there: its commands, and a port that leads to the models."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any, TypeVar

from megaflow.async_client import AsyncClient
from megaflow.async_env import AsyncRemoteEnv
from megaflow.errors import FailedPrecondition, MegaflowError
from megaflow.forwarding import Forward
from megaflow.sandbox import OUTPUT_LIMIT, ExecResult, Output
from megaflow.trajectory.records import Event, Record
from megaflow_server.runner.failures import environments_own
from megaflow_server.runner.gateway import RunnerGateway
from megaflow_server.runner.models import AttemptModels, without

__all__ = ["Inside", "RecordedSandbox"]

T = TypeVar("T")
Write = Callable[[Record], Awaitable[None]]


class Inside:
    """What it takes to let an attempt's agent into its sandbox."""

    def __init__(self, client: AsyncClient, models: AttemptModels, gateway: RunnerGateway) -> None:
        self._client = client
        self._models = models
        self._gateway = gateway

    async def open(self, env: AsyncRemoteEnv, write: Write) -> RecordedSandbox:
        """The sandbox in which the environment's episode is played.

        Raises:
            FailedPrecondition: it lets no agent in, or nothing can listen in its sandbox.
            InvalidArgument: the task names no models.
        """
        if not await env.call("has_wrapper_attr", "acting"):
            raise FailedPrecondition(
                "sandbox: this environment lets no agent run in its sandbox, as megaflow/Terminal-v0 and "
                "megaflow/SWE-v0 do by `acting()`: take an agent that acts by steps, such as 'tool'"
            )
        acting = await env.call("acting")
        token = self._models.serve()
        forward = await self._client.forward(
            env.session_id, self._gateway.connect, sandbox=acting["sandbox"]
        )
        return RecordedSandbox(
            self._client, env.session_id, acting, forward, token, write, self._models
        )


class RecordedSandbox:
    """See `megaflow.agent.AgentSandbox`.

    Attributes:
        failure: what it failed with, whatever the agent made of that.
    """

    def __init__(
        self,
        client: AsyncClient,
        session_id: str,
        acting: Mapping[str, Any],
        forward: Forward,
        token: str,
        write: Write,
        models: AttemptModels,
    ) -> None:
        self.failure: MegaflowError | None = None
        self._client = client
        self._session_id = session_id
        self._acting = acting
        self._forward = forward
        self._token = token
        self._write = write
        self._models = models

    @property
    def environ(self) -> Mapping[str, str]:
        """See `AgentSandbox.environ`."""
        url = f"http://127.0.0.1:{self._forward.port}"
        return {
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": self._token,
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_AUTH_TOKEN": self._token,
        }

    async def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        """See `AgentSandbox.run`."""
        acting = self._acting
        given = [one for one in (timeout, acting["timeout"]) if one is not None]
        began = time.monotonic()
        result = await self._asked(
            self._client.run_inside(
                self._session_id,
                command,
                sandbox=acting["sandbox"],
                user=acting["user"],
                cwd=acting["cwd"],
                timeout=min(given, default=None),
                output_limit=output_limit,
                env={**acting["env"], **self.environ, **(env or {})},
            )
        )
        said = dataclasses.replace(
            result, stdout=self._told(result.stdout), stderr=self._told(result.stderr)
        )
        about = {
            "command": without(self._token, command),
            "exit_code": said.exit_code,
            "timed_out": said.timed_out,
            "stdout": said.stdout.text,
            "stderr": said.stderr.text,
            "latency": time.monotonic() - began,
        }
        await self._write(Event(name="command", data=about))
        return said

    async def put(self, tar: IO[bytes]) -> None:
        """See `AgentSandbox.put`."""
        sandbox = self._acting["sandbox"]
        began = time.monotonic()
        await self._asked(self._client.put_inside(self._session_id, tar, sandbox=sandbox))
        await self._write(Event(name="put", data={"latency": time.monotonic() - began}))

    async def close(self) -> None:
        """Let nothing in the sandbox reach the models any more."""
        self.failure = self.failure or self._forward.failure
        await self._forward.close()
        await self._models.settle()

    async def _asked(self, reply: Awaitable[T]) -> T:
        try:
            return await reply
        except Exception as error:
            self.failure = environments_own(error)
            raise

    def _told(self, output: Output) -> Output:
        """An output without the token; its two parts apart, since what was between them is not there."""
        hidden = self._token.encode()
        head, tail = (
            part.replace(hidden, b"[token]")
            for part in (output[: output.cut], output[output.cut :])
        )
        return Output(head + tail, omitted=output.omitted, cut=len(head))
