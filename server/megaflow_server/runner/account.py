"""What is written down of an attempt: how it began, and with what it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from megaflow.errors import MegaflowError
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.hello import package_version
from megaflow.trajectory.records import End, Start, Verdict
from megaflow_server.runner.failures import EVALUATING, Failed
from megaflow_server.trajectories import TrajectoryWriter

__all__ = ["Account"]

# Seconds that writing down why an attempt was cut off may take.
_CUT_OFF: Final = 2.0


class Account:
    """The trajectory of one attempt, but for what its agent does.

    Args:
        document: the attempt's, decoded.
    """

    def __init__(
        self,
        attempt: pb.Attempt,
        name: str,
        document: Mapping[str, Any],
        writer: TrajectoryWriter,
    ) -> None:
        self.writer = writer
        self._attempt = attempt
        self._name = name
        self._document = document
        self._begun = False

    async def begin(self, instruction: str | None = None) -> None:
        """Writes what there is to do, the first time that it is called."""
        if self._begun:
            return
        self._begun = True
        document, attempt = self._document, self._attempt
        await self.writer.append(
            Start(
                attempt_id=self._name,
                job_id=attempt.task_id.partition("/")[0],
                task_id=attempt.task_id,
                group_id=attempt.group or None,
                sample=attempt.sample,
                attempt=attempt.fence - 1,
                fence=attempt.fence,
                env=document["environment"],
                agent=document["agent"],
                models=document["models"],
                seed=attempt.seed,
                instruction=instruction,
                versions={name: package_version(name) for name in ("megaflow", "gymnasium")},
                extra={
                    "env_kwargs": document["env_kwargs"] or {},
                    "agent_kwargs": document["agent_kwargs"] or {},
                },
            )
        )

    async def judged(self, reward: float, rewards: dict[str, float], *, failed: bool) -> None:
        """Writes the verdict on what counts; `failed` where its agent did."""
        await self.writer.append(Verdict(reward=reward, rewards=rewards))
        await self.writer.append(End(status="failed" if failed else "succeeded"))

    async def commit(self) -> None:
        """Closes what is whole. Raises Failed: a result without its trajectory is none."""
        try:
            await self.writer.close()
        except MegaflowError as error:
            reason = f"the trajectory could not be kept: {error.message}"
            raise Failed("infrastructure", EVALUATING, reason) from error

    async def spoilt(self, outcome: pb.Outcome, *, ended: bool) -> None:
        """Writes why there is no verdict, and closes; what was cut off, and did not end, has no end."""
        failure = outcome.failure
        failed = Failed(failure.kind, failure.phase, failure.reason, failure.log)
        try:
            async with asyncio.timeout(None if ended else _CUT_OFF):
                await self.writer.append(failed.record())
                if ended:
                    await self.writer.append(Verdict(reward=None, valid=False))
                    await self.writer.append(End(status="failed"))
                await self.writer.close()
        except (MegaflowError, TimeoutError) as error:
            # The attempt is spoilt already; that its record is short, too, belongs to the reason.
            outcome.failure.reason += f" (its trajectory is incomplete: {error!r})"
