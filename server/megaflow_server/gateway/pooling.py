"""What a gateway says of its pools, and what it is told of them: see megaflow.proto."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.gateway.records import Deadline
from megaflow_server.gateway.supervisor import Supervisor
from megaflow_server.gateway.wanted import Wanted
from megaflow_server.pool import Pools, PoolStatus
from megaflow_server.templates import Template

__all__ = ["Pooling", "breakers"]

# Far more than any pool has.
_MOST = 1_000_000
# Until a worker says what an environment wants, with whatever that has to import; and until images are built; seconds.
_ASK_TIMEOUT = 60.0
_IMAGE_TIMEOUT = 600.0


class Pooling:
    """Answers what clients ask of pools."""

    def __init__(self, pools: Pools, supervisor: Supervisor, wanted: Wanted) -> None:
        self._pools = pools
        self._supervisor = supervisor
        self._wanted = wanted

    def list(self) -> pb.ListPoolsResponse:
        """See ListPools."""
        pools = self._pools
        return pb.ListPoolsResponse(pools=[_message(one, pools.run) for one in pools.list()])

    async def prepare(self, request: pb.PreparePoolRequest, owner: str) -> pb.PoolStatus:
        """See PreparePool. Raises what `Pools.prepare` does, and InvalidArgument for more than any pool has."""
        _check_count(request.count)
        template = self._pools.template(request.template)
        image = request.image or None
        status = await self._pools.prepare(template, request.count, image=image, owner=owner)
        return _message(status, self._pools.run)

    async def prepare_environment(
        self, request: pb.PrepareEnvironmentRequest, owner: str
    ) -> pb.ListPoolsResponse:
        """See PrepareEnvironment. Raises what `prepare` and `Lending.lend` do."""
        _check_count(request.count)
        spec = request.environment
        if spec.num_envs or len(spec.makers) != 1 or spec.makers[0].sandboxes:
            raise InvalidArgument("environment: takes one environment, and no vector")
        worker = self._supervisor.any_for(owner)
        asked = pb.OpenShardRequest(environment=spec, ask_only=True)
        answer = await worker.call(
            lambda stub: stub.OpenShard(asked, metadata=worker.metadata, timeout=_ASK_TIMEOUT),
            deadline=f"it has not said within {_ASK_TIMEOUT:g} s what sandboxes it wants",
        )
        if not answer.sandboxes:
            raise FailedPrecondition(
                "this environment wants no sandbox: there is nothing to be made ready for it"
            )
        templates = await self._wanted.templates(answer.sandboxes, Deadline.after(_IMAGE_TIMEOUT))
        purpose = hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()
        return pb.ListPoolsResponse(
            pools=[
                _message(
                    await self._pools.prepare(
                        template, request.count * of_each, owner=owner, purpose=purpose
                    ),
                    self._pools.run,
                )
                for template, of_each in _counted(templates)
            ]
        )


def breakers(pools: Pools) -> dict[str, str]:
    """Why nothing is created at the moment, by template; those are left out of which some is."""
    return {one.template: one.breaker for one in pools.list() if one.breaker}


def _check_count(count: int) -> None:
    if count > _MOST:
        raise InvalidArgument(f"count={count}: takes at most {_MOST}")


def _counted(templates: Sequence[Template]) -> list[tuple[Template, int]]:
    """Each once, with how often it is there."""
    return [
        (one, templates.count(one)) for at, one in enumerate(templates) if one not in templates[:at]
    ]


def _message(status: PoolStatus, run: str) -> pb.PoolStatus:
    return pb.PoolStatus(
        template=status.template,
        image=status.image or "",
        backend=status.backend,
        mode=status.mode,
        ready=status.ready,
        leased=status.leased,
        creating=status.creating,
        resetting=status.resetting,
        ending=status.ending,
        waiting=status.waiting,
        target=status.target,
        max=status.max,
        created=status.created,
        reused=status.reused,
        quarantined=status.quarantined,
        failed=status.failed,
        breaker=status.breaker or "",
        fault=status.fault or "",
        create_s=status.create_seconds,
        reset_s=status.reset_seconds,
        run=run,
    )
