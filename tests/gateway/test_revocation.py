"""A principal without a token has no sessions: those that it had end, and nobody else's do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import megaflow
from gateway_rig import eventually
from megaflow.errors import SessionLost, Unauthenticated
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway import server
from megaflow_server.gateway.auth import READ, SESSIONS
from megaflow_server.gateway.listeners import Access, Listeners
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.session_settings import SessionSettings
from megaflow_server.gateway.sessions import Sessions
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.token_file import TokenFile
from megaflow_server.gateway.tokens import Token
from megaflow_server.worker import in_process
from worker_rig import PATIENCE

ENV = "CartPole-v1"


@dataclass
class Scene:
    """A gateway with a token file, and clients that show tokens of it."""

    gateway: Gateway
    file: TokenFile
    stack: AsyncExitStack

    @property
    def listeners(self) -> Listeners:
        assert self.gateway._listeners is not None
        return self.gateway._listeners

    def token(self, principal: str, lifetime: timedelta | None = None) -> tuple[Token, str]:
        made = self.file.create(principal, {SESSIONS, READ}, lifetime)
        self.gateway.reload()
        return made

    def revoke(self, token: Token) -> None:
        self.file.revoke(token.id)
        self.gateway.reload()

    async def client(self, text: str) -> megaflow.AsyncClient:
        client = megaflow.AsyncClient(self.gateway.addresses[-1], token=text)
        return await self.stack.enter_async_context(client)


async def loss(env: Any) -> str:
    """What a session's client is told that is about to lose it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if any((await env.step(0))[2:4]):
                    await env.reset()
            # The second where it was told to the stream while nothing was asked, and is asked for anew.
            except (SessionLost, Unauthenticated) as lost:
                return lost.message


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    file = TokenFile(tmp_path / "tokens")
    file.create("somebody")
    settings = GatewaySettings(
        folder=tmp_path,
        listen=[f"unix:{tmp_path / 'g.sock'}", "127.0.0.1:0"],
        access=Access(token_file=file.path),
        max_workers=4,
        workers=1,
        warm_workers=1,
        stop_grace=0.1,
    )
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(settings, FakeBackend(in_process.run)))
        yield Scene(gateway, file, stack)


async def test_a_principals_sessions_end_with_its_last_token(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    token, text = scene.token("leaver")
    _, other = scene.token("stayer")
    env = await (await scene.client(text)).make(ENV)
    await env.reset()
    others = await (await scene.client(other)).make(ENV)
    await others.reset()
    scene.revoke(token)
    assert scene.gateway.sessions.count == 1
    assert "has ended: each token of leaver that opened sessions was revoked" in caplog.text
    assert "lease" not in caplog.text
    # By the stream's last frame, or by the gateway where a step that was on its way has broken the stream.
    assert re.search(
        "each token of leaver .* was revoked|token .* of leaver was revoked", await loss(env)
    )
    with pytest.raises(Unauthenticated, match=f"token {token.id} of leaver was revoked"):
        await env.reset()
    await others.step(0)


async def test_a_rotation_ends_nothing(scene: Scene) -> None:
    old, old_text = scene.token("team")
    _, new_text = scene.token("team")
    env = await (await scene.client(new_text)).make(ENV)
    await env.reset()
    behind = await (await scene.client(old_text)).make(ENV)
    await behind.reset()
    scene.revoke(old)
    await env.step(0)
    # Whoever holds it still may not ask for anything; what it has is the principal's.
    await behind.step(0)
    assert scene.gateway.sessions.count == 2
    with pytest.raises(Unauthenticated, match="was revoked"):
        await (await scene.client(old_text)).envs()


async def test_a_token_that_only_reads_keeps_no_session(scene: Scene) -> None:
    token, text = scene.token("team")
    scene.file.create("team", {READ})
    await (await scene.client(text)).make(ENV)
    scene.revoke(token)
    assert scene.gateway.sessions.count == 0


async def test_a_principals_sessions_end_when_its_last_token_expires(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_EXPIRY_INTERVAL", 0.01)
    token, text = scene.token("team", timedelta(hours=1))
    env = await (await scene.client(text)).make(ENV)
    await env.reset()
    later = token.created.timestamp() + 3600
    monkeypatch.setattr(scene.listeners._authenticator.tokens, "_clock", lambda: later)
    await eventually(lambda: scene.gateway.sessions.count == 0)
    assert re.search("was revoked or has expired|of team expired at", await loss(env))
    with pytest.raises(Unauthenticated, match="of team expired at"):
        await env.reset()


async def test_who_comes_through_a_unix_socket_needs_no_token(scene: Scene) -> None:
    client = megaflow.AsyncClient(scene.gateway.addresses[0])
    env = await (await scene.stack.enter_async_context(client)).make(ENV)
    await env.reset()
    token, _ = scene.token("team")
    scene.revoke(token)
    await env.step(0)


async def test_what_was_asked_for_before_is_not_opened_after() -> None:
    sessions = Sessions(SessionSettings())
    sessions.keep_only(frozenset({"stayer"}))
    with pytest.raises(Unauthenticated, match="each token of leaver"):
        await sessions.open(pb.OpenSessionRequest(), "leaver")
