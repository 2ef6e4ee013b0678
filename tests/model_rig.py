"""A gateway with sessions and records, on a port of loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession

from megaflow.calls import CallRecord
from megaflow.model import Model
from megaflow_server.models.app import application
from megaflow_server.models.sessions import ModelSession, ModelSessions
from model_upstream import serving


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Return when it holds; TimeoutError where it does not come to."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is the code's, and tells nobody
            await asyncio.sleep(0.01)


@dataclass
class Rig:
    """The gateway's root, its sessions, and what was recorded by rollout."""

    url: str
    sessions: ModelSessions
    records: dict[str, list[CallRecord]] = field(default_factory=dict)

    def open(self, models: Mapping[str, Model], rollout: str = "r", **more: Any) -> str:
        """A session's token."""
        kept = self.records.setdefault(rollout, [])

        async def keep(record: CallRecord) -> None:
            kept.append(record)

        more.setdefault("sink", keep)
        return self.sessions.open(ModelSession(rollout_id=rollout, models=models, **more))

    async def post(
        self, path: str, body: Any, token: str | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON and headers."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with (
            ClientSession() as client,
            client.post(self.url + path, json=body, headers=headers) as response,
        ):
            return response.status, await response.json(), response.headers


@asynccontextmanager
async def gateway(sessions: ModelSessions | None = None, **options: Any) -> AsyncIterator[Rig]:
    """A gateway that runs."""
    sessions = sessions or ModelSessions()
    async with serving(application(sessions, **options)) as url:
        yield Rig(url, sessions)
