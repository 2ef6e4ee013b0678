"""Sessions that a runner opens for tasks are their tenants': their quota, and their workers, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import megaflow
from megaflow.errors import PermissionDenied, ResourceExhausted
from megaflow.gateway_connection import OnBehalf, on_behalf
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.auth import RUN, SESSIONS
from megaflow_server.gateway.limits import Quota
from megaflow_server.gateway.listeners import Access
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.session_settings import SessionSettings
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.token_file import TokenFile
from megaflow_server.worker import in_process

ENV = "CartPole-v1"


class Scene:
    """A gateway where one tenant may have two sessions, and its clients."""

    def __init__(self, gateway: Gateway, file: TokenFile, stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self._file, self._stack = file, stack

    async def client(self, name: str, *scopes: str) -> megaflow.AsyncClient:
        _, text = self._file.create(name, set(scopes))
        self.gateway.reload()
        client = megaflow.AsyncClient(self.gateway.addresses[-1], token=text)
        return await self._stack.enter_async_context(client)

    def workers(self) -> dict[str | None, int]:
        """How many environments there are with each principal's workers."""
        return {one.owner: one.load for one in self.gateway.supervisor.workers if one.load}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    file = TokenFile(tmp_path / "tokens")
    file.create("somebody")
    settings = GatewaySettings(
        folder=tmp_path,
        listen=["127.0.0.1:0"],
        access=Access(token_file=file.path),
        max_workers=4,
        workers=1,
        warm_workers=1,
        sessions=SessionSettings(
            quotas={"research": Quota(sessions=2), "runner": Quota(sessions=1)}
        ),
        stop_grace=0.1,
    )
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(settings, FakeBackend(in_process.run)))
        yield Scene(gateway, file, stack)


async def test_tenants_of_tasks_have_workers_of_their_own(scene: Scene) -> None:
    runner = await scene.client("runner", RUN, SESSIONS)
    envs = []
    for tenant in ("research", "research", "teaching", ""):
        on_behalf.set(OnBehalf(tenant))
        envs.append(await runner.make(ENV))
        await envs[-1].reset()
    assert scene.workers() == {"research": 2, "teaching": 1, "runner": 1}
    for env in envs:
        await env.close()


async def test_a_tenants_quota_counts_what_its_tasks_have(scene: Scene) -> None:
    runner = await scene.client("runner", RUN, SESSIONS)
    own = await scene.client("research", SESSIONS)
    kept = await own.make(ENV)
    on_behalf.set(OnBehalf("research"))
    env = await runner.make(ENV)
    with pytest.raises(ResourceExhausted, match="research has 2 sessions"):
        await runner.make(ENV)
    await env.close()
    again = await runner.make(ENV)
    on_behalf.set(OnBehalf("teaching"))
    others = await runner.make(ENV)
    for each in (kept, again, others):
        await each.close()


async def test_a_runners_own_quota_keeps_nobodys_tasks_from_starting(scene: Scene) -> None:
    runner = await scene.client("runner", RUN, SESSIONS)
    envs = []
    for tenant in ("", "research", "teaching"):
        on_behalf.set(OnBehalf(tenant))
        envs.append(await runner.make(ENV))
    on_behalf.set(OnBehalf(""))
    with pytest.raises(ResourceExhausted, match="runner has 1 sessions"):
        await runner.make(ENV)
    for env in envs:
        await env.close()


async def test_for_others_takes_the_scope_of_runners(scene: Scene) -> None:
    client = await scene.client("teaching", SESSIONS)
    on_behalf.set(OnBehalf("research"))
    with pytest.raises(PermissionDenied, match="scope run"):
        await client.make(ENV)
    on_behalf.set(OnBehalf("teaching"))
    env = await client.make(ENV)
    assert scene.workers() == {"teaching": 1}
    await env.close()


async def test_one_that_is_to_be_alone_shares_its_worker_with_none(scene: Scene) -> None:
    runner = await scene.client("runner", RUN, SESSIONS)
    envs = []
    for alone in (False, True, True, False):
        on_behalf.set(OnBehalf("research" if alone else "teaching", alone=alone))
        envs.append(await runner.make(ENV))
        await envs[-1].reset()
    loads = sorted((one.owner or "", one.load) for one in scene.gateway.supervisor.workers)
    assert [one for one in loads if one[1]] == [("research", 1), ("research", 1), ("teaching", 2)]
    for env in envs:
        await env.close()
    async with asyncio.timeout(20):
        while any(one.owner == "research" for one in scene.gateway.supervisor.workers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_worker_of_its_own_takes_the_scope_of_runners(scene: Scene) -> None:
    client = await scene.client("teaching", SESSIONS)
    on_behalf.set(OnBehalf(alone=True))
    with pytest.raises(PermissionDenied, match="scope run"):
        await client.make(ENV)
