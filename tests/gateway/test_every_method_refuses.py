"""Every method of every service, from the descriptors: whoever may not call it is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import megaflow_pb2_grpc as pb_grpc
from megaflow_server.backends.fake import FakeBackend
from megaflow_server.gateway.auth import ADMIN, ALL_SCOPES, METHOD_SCOPES
from megaflow_server.gateway.listeners import Access
from megaflow_server.gateway.relay import SHARD_KEY
from megaflow_server.gateway.server import Gateway
from megaflow_server.gateway.settings import GatewaySettings
from megaflow_server.gateway.token_file import TokenFile
from megaflow_server.gateway.tokens import new_token
from megaflow_server.launch import SECRET_KEY
from megaflow_server.orchestrator.service import Orchestrator
from megaflow_server.orchestrator.store.memory import MemoryStore
from megaflow_server.worker import in_process
from worker_rig import PATIENCE, Rig, single

Metadata = tuple[tuple[str, str], ...]

PACKAGE = pb.DESCRIPTOR.package
# Which services a server of each kind has; a new service is to be put into one, or both.
SERVED = {
    "gateway": ("Gateway", "Sessions", "Tasks", "Models", "Runners"),
    "worker": ("Worker", "Sessions"),
}

# Methods that name nobody's session.
NAME_NONE = (
    "DropSandboxes",
    "DropSnapshot",
    "Hello",
    "ListEnvironments",
    "ListPools",
    "ListSandboxes",
    "OpenSession",
    "PrepareEnvironment",
    "PreparePool",
    "TakeConnection",
)
# Of the gateway's, those whose answers are a stream.
STREAMS = ("ListenInside", "OpenTerminal", "TakeConnection")

REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@dataclass(frozen=True)
class Method:
    service: str
    name: str

    @property
    def path(self) -> str:
        return f"/{PACKAGE}.{self.service}/{self.name}"

    @property
    def input_type(self) -> str:
        service = pb.DESCRIPTOR.services_by_name[self.service]
        return str(service.methods_by_name[self.name].input_type.name)

    def __str__(self) -> str:
        return f"{self.service}.{self.name}"


def methods(kind: str) -> list[Method]:
    return [
        Method(service, method.name)
        for service in SERVED[kind]
        for method in pb.DESCRIPTOR.services_by_name[service].methods
    ]


every_gateway_method = pytest.mark.parametrize("method", methods("gateway"), ids=str)
every_worker_method = pytest.mark.parametrize("method", methods("worker"), ids=str)


def test_every_service_is_served_by_somebody() -> None:
    known = {service for services in SERVED.values() for service in services}
    assert known == set(pb.DESCRIPTOR.services_by_name)


def test_every_method_of_the_gateway_has_its_scopes_and_no_other_has() -> None:
    assert set(METHOD_SCOPES) == {method.path for method in methods("gateway")}
    assert all(scopes and scopes <= ALL_SCOPES for scopes in METHOD_SCOPES.values())


@dataclass
class Scene:
    """A gateway on TCP, a session of `owner` on it, and the tokens of others."""

    channel: Any
    tokens: TokenFile
    gateway: Gateway
    job: str = "the-owners"
    session_id: str = ""
    shard: pb.Shard = field(default_factory=pb.Shard)

    def token(self, principal: str, scopes: frozenset[str] = ALL_SCOPES) -> Metadata:
        _, text = self.tokens.create(principal, scopes)
        self.gateway.reload()
        return (("authorization", f"Bearer {text}"),)

    def request(self, method: Method) -> bytes:
        """What asks for the owner's session, where the method names one."""
        ids: dict[str, Any] = {"session_id": self.session_id, "shard_id": self.shard.shard_id}
        attach = pb.Attach(
            shard_id=self.shard.shard_id,
            token=self.shard.token,
            protocol_version=1,
            generation=1,
        )
        requests: dict[str, Any] = {
            "ReopenShard": pb.ReopenShardRequest(request_id="x", **ids),
            "DescribeShard": pb.DescribeShardRequest(**ids),
            "RenewLeases": pb.RenewLeasesRequest(
                session_ids=[self.session_id], released_ids=[self.session_id]
            ),
            "KeepSnapshot": pb.KeepSnapshotRequest(**ids),
            "RestoreSnapshot": pb.RestoreSnapshotRequest(snapshot_id="x", **ids),
            "KeepSandboxes": pb.KeepSandboxesRequest(session_id=self.session_id, seconds=1),
            "RunInside": pb.RunInsideRequest(
                inside=pb.Inside(id=self.session_id), command="true", output_limit=1
            ),
            "OpenTerminal": pb.TerminalInput(
                begin=pb.TerminalBegin(inside=pb.Inside(id=self.session_id))
            ),
            "PutInside": pb.PutInsideRequest(inside=pb.Inside(id=self.session_id)),
            "ListenInside": pb.ListenInsideRequest(inside=pb.Inside(id=self.session_id)),
            "CloseSession": pb.CloseSessionRequest(session_id=self.session_id),
            "Attach": pb.ClientFrame(attach=attach),
            "CreateJob": pb.CreateJobRequest(job_id=self.job, seed=1),
            "AddTasks": pb.AddTasksRequest(
                job_id=self.job, tasks=[pb.NewTask(environment="CartPole-v1", agent="a")]
            ),
            "SealJob": pb.JobRequest(job=self.job),
            "PutManifest": pb.PutManifestRequest(
                job=self.job, content=pb.ManifestPart(parts=1, data=b"x")
            ),
            "GetManifest": pb.GetManifestRequest(job=self.job),
            "GetJob": pb.JobRequest(job=self.job),
            "WaitResults": pb.WaitResultsRequest(job=self.job),
            "CancelJob": pb.CancelJobRequest(job=self.job),
            "CancelTask": pb.TaskRequest(task_id=f"{self.job}/0"),
            "ExplainTask": pb.TaskRequest(task_id=f"{self.job}/0"),
        }
        message = requests.get(method.name)
        return b"" if message is None else bytes(message.SerializeToString())

    async def call(self, method: Method, metadata: Metadata) -> tuple[grpc.StatusCode, bytes]:
        """How it ended, and its first answer."""
        request = self.request(method)
        if method.service == "Sessions" or method.name in STREAMS:
            return await asyncio.to_thread(self._stream, method, request, metadata)
        try:
            unary = self.channel.unary_unary(method.path)
            return grpc.StatusCode.OK, await unary(request, metadata=metadata, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            return error.code(), b""

    def _stream(
        self, method: Method, request: bytes, metadata: Metadata
    ) -> tuple[grpc.StatusCode, bytes]:
        """One request, on a stream that stays open.

        Not by gRPC's asyncio: what comes while that sends may turn into an internal error there.
        """
        over = threading.Event()

        def requests() -> Iterator[bytes]:
            yield request
            over.wait(PATIENCE)

        with grpc.insecure_channel(self.gateway.addresses[0]) as channel:
            stream: Any = channel.stream_stream(method.path)
            shard = (SHARD_KEY, self.shard.shard_id)
            call = stream(requests(), metadata=(*metadata, shard), timeout=PATIENCE)
            try:
                return grpc.StatusCode.OK, next(call)
            except grpc.RpcError:
                return call.code(), b""
            finally:
                over.set()
                call.cancel()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    tokens = TokenFile(tmp_path / "tokens")
    _, text = tokens.create("owner")
    settings = GatewaySettings(
        folder=tmp_path,
        listen=["127.0.0.1:0"],
        access=Access(token_file=tokens.path),
        max_workers=2,
        workers=1,
        warm_workers=1,
        stop_grace=0.1,
    )
    async with AsyncExitStack() as stack:
        orchestrator = await stack.enter_async_context(Orchestrator(MemoryStore()))
        gateway = await stack.enter_async_context(
            Gateway(settings, FakeBackend(in_process.run), orchestrator)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(gateway.addresses[0]))
        scene = Scene(channel, tokens, gateway)
        opened = await pb_grpc.GatewayStub(channel).OpenSession(
            pb.OpenSessionRequest(request_id="r", environment=single()),
            metadata=(("authorization", f"Bearer {text}"),),
            timeout=PATIENCE,
        )
        scene.session_id, scene.shard = opened.session_id, opened.shards[0]
        owner = (("authorization", f"Bearer {text}"),)
        for name in ("CreateJob", "AddTasks"):
            status, _ = await scene.call(Method("Tasks", name), owner)
            assert status is grpc.StatusCode.OK
        yield scene


@every_gateway_method
async def test_the_gateway_refuses_the_unauthenticated(scene: Scene, method: Method) -> None:
    _, stranger = new_token("owner")
    revoked, text = scene.tokens.create("owner")
    scene.tokens.revoke(revoked.id)
    shown = [f"Bearer {stranger}", f"Bearer {text}", "Bearer", "", "Basic b3duZXI6"]
    for metadata in ((), *((("authorization", value),) for value in shown)):
        status, _ = await scene.call(method, metadata)
        assert status is grpc.StatusCode.UNAUTHENTICATED


@every_gateway_method
async def test_the_gateway_refuses_the_wrong_scope(scene: Scene, method: Method) -> None:
    for scope in sorted(ALL_SCOPES):
        status, _ = await scene.call(method, scene.token("owner", frozenset({scope})))
        opens = scope in METHOD_SCOPES[method.path]
        assert (status is grpc.StatusCode.PERMISSION_DENIED) is not opens, (scope, status)
        if method.name == "CloseSession":
            break  # what it opens would end the session


@every_gateway_method
async def test_the_gateway_refuses_another_principals_session(scene: Scene, method: Method) -> None:
    status, answer = await scene.call(method, scene.token("other", ALL_SCOPES - {ADMIN}))
    if method.name == "RenewLeases":
        # One call for many sessions: it says of each what is wrong with it.
        (lost,) = pb.RenewLeasesResponse.FromString(answer).lost
        assert (lost.session_id, lost.error.kind) == (scene.session_id, "NotFound")
    elif method.service == "Tasks" and scene.request(method):
        # It is told no more than that it has none of this name: `CreateJob` that the name is taken.
        taken = method.name == "CreateJob"
        assert status is (
            grpc.StatusCode.FAILED_PRECONDITION if taken else grpc.StatusCode.NOT_FOUND
        )
        why = pb.TaskRequest(task_id=f"{scene.job}/0").SerializeToString()
        explain = scene.channel.unary_unary(Method("Tasks", "ExplainTask").path)
        answer = await explain(why, metadata=scene.token("owner"), timeout=PATIENCE)
        assert pb.TaskStatus.FromString(answer).state == "queued"
    elif scene.request(method):
        assert status is grpc.StatusCode.PERMISSION_DENIED
    elif method.service == "Tasks":
        assert pb.ListJobsResponse.FromString(answer) == pb.ListJobsResponse()
    else:
        # These name none: whoever may execute tasks executes everybody's.
        assert method.service in ("Runners", "Models") or method.name in NAME_NONE
    # The owner has it still, and nothing was done to it.
    owner = scene.token("owner")
    status, answer = await scene.call(Method("Gateway", "DescribeShard"), owner)
    assert status is grpc.StatusCode.OK
    assert pb.ShardStatus.FromString(answer).alive
    status, answer = await scene.call(Method("Sessions", "Attach"), owner)
    assert status is grpc.StatusCode.OK
    assert pb.ServerFrame.FromString(answer).HasField("attached")


@pytest.mark.parametrize("name", ["Check", "Watch"])
async def test_health_alone_answers_without_a_token(scene: Scene, name: str) -> None:
    call = scene.channel.unary_stream(f"/grpc.health.v1.Health/{name}")(b"", timeout=PATIENCE)
    assert await call.read() == b"\x08\x01"
    call.cancel()


# ---------------------------------------------------------------- workers


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path) as running:
        running.open(single())
        yield running


def worker_status(rig: Rig, method: Method, metadata: Metadata, body: bytes) -> grpc.StatusCode:
    make: Any = rig.channel.stream_stream(method.path)
    call = make(iter([body]), metadata=metadata, timeout=PATIENCE)
    try:
        next(call)
    except (grpc.RpcError, StopIteration):
        status: grpc.StatusCode = call.code()
        return status
    return grpc.StatusCode.OK


@every_worker_method
def test_a_worker_refuses_whoever_lacks_its_secret(rig: Rig, method: Method) -> None:
    attach = pb.Attach(shard_id="a", token=b"another of 16 by", protocol_version=1, generation=1)
    frame = pb.ClientFrame(attach=attach).SerializeToString()
    close = pb.CloseShardRequest(shard_id="a").SerializeToString()
    body = {"ClientFrame": frame, "CloseShardRequest": close}.get(method.input_type, b"")
    for metadata in ((), ((SECRET_KEY, "0" * 32),), ((SECRET_KEY, ""),)):
        assert worker_status(rig, method, metadata, body) in REFUSED
    rig.attach()  # it is there, and its owner's
