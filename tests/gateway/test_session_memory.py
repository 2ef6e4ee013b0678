"""What a session costs its gateway while nothing happens."""

from __future__ import annotations

import gc
import secrets
from pathlib import Path
from typing import Any

import pytest

from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.lending import Lending
from megaflow_server.gateway.service import GatewayService
from megaflow_server.gateway.session_settings import SessionSettings
from megaflow_server.gateway.sessions import Sessions
from megaflow_server.gateway.wanted import Wanted
from worker_rig import maker

SESSIONS = 2_000
# What is promised; bytes.
MOST = 64 * 1024


class Worker:
    """A worker that builds nothing, and describes it at some length."""

    loss = None
    title = "worker-0"
    endpoint = pb.Endpoint(unix_path="/run/user/1000/megaflow-12345678/worker-0-1.sock")

    def place(self, count: int) -> None: ...

    def release(self, count: int) -> None: ...

    async def build(self, request: pb.OpenShardRequest) -> pb.OpenShardResponse:
        description = pb.EnvironmentDescription(
            single_observation_space=secrets.token_bytes(2_000),
            single_action_space=secrets.token_bytes(200),
            env_spec=secrets.token_hex(500),
        )
        return pb.OpenShardResponse(environment=description)


class Supervisor:
    def workers_for(self, owner: str, count: int) -> list[Worker]:
        return [Worker()]


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("alike", [True, False], ids=["alike", "each with arguments of its own"])
async def test_an_idle_session_costs_its_gateway_little(alike: bool) -> None:
    supervisor: Any = Supervisor()
    pools: Any = None  # which no session here asks for
    snapshots: Any = None
    inside: Any = None
    forwarding: Any = None
    sessions = Sessions(SessionSettings())
    sessions.use(supervisor, Lending(pools, Path(), Wanted(pools, {}, contained=False)))
    service = GatewayService(
        sessions,
        supervisor,
        pools,
        snapshots,
        inside,
        forwarding,
        server_id="s",
        code_policy=pb.CODE_POLICY_REGISTERED,
        caller=lambda: "local",
        runs=lambda: False,
    )
    context: Any = None
    ids: list[str] = []

    async def opened(count: int) -> None:
        for i in range(count):
            spec = pb.EnvironmentSpec(
                makers=[maker(task="" if alike else f"{i:02000}")], num_envs=8
            )
            request = pb.OpenSessionRequest(request_id=secrets.token_hex(16), environment=spec)
            ids.append((await service.OpenSession(request, context)).session_id)

    await opened(10)
    before = resident()
    await opened(SESSIONS)
    each = (resident() - before) / SESSIONS
    assert sessions.count == SESSIONS + 10
    assert each < MOST, f"{each:.0f} bytes"
    assert sessions.renew(ids, [], "local") == []
    await sessions.stop()
