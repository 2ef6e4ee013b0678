"""The HTTP API for models in a runner, for agents that run in sandboxes: each connection is one of a pair of sockets.

It listens nowhere: only what the runner itself hands on reaches it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from megaflow.errors import FailedPrecondition, Unauthenticated
from megaflow_server.models.sessions import ModelSession, ModelSessions

__all__ = ["RunnerGateway"]

_CHUNK = 1 << 16


class RunnerGateway:
    """Serves the sessions of all attempts of a runner; started by the first that needs it."""

    def __init__(self) -> None:
        self._sessions = ModelSessions()
        self._runner: Any = None
        self._starting = asyncio.Lock()

    def open(self, session: ModelSession) -> str:
        """The token of a session, which opens nothing else."""
        return self._sessions.open(session)

    def close_session(self, token: str) -> None:
        """End what it has under way; the token opens nothing any more."""
        self._sessions.close(token)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to it. Raises FailedPrecondition where what it takes is not installed."""
        async with self._starting:
            if self._runner is None:
                self._runner = await self._start()
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._runner.server, theirs)
        return await asyncio.open_connection(sock=ours, limit=_CHUNK)

    async def _start(self) -> Any:
        try:
            from megaflow_server.models.app import application, runner
        except ImportError as error:
            raise FailedPrecondition(
                f"models are served to sandboxes with {error.name}, which is not installed where the runner is: "
                "pip install 'megaflow[server]'"
            ) from error
        made = runner(application(self._sessions))
        await made.setup()
        return made

    async def close(self) -> None:
        """End every session and connection."""
        self._sessions.end_all(Unauthenticated("this runner has ended"))
        if self._runner is not None:
            await self._runner.cleanup()
