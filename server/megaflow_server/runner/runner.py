"""The runner: claims attempts for as much room as it has, executes them, and says how they ended."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from megaflow.errors import FailedPrecondition, MegaflowError
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.transport.credentials import Target
from megaflow_server.runner.attempt import Execution, Stopped, Tools
from megaflow_server.runner.keeping import Keeper, Name
from megaflow_server.runner.lease import Lease
from megaflow_server.runner.reports import Ask, Reports

__all__ = ["Capacity", "Runner"]

logger = logging.getLogger(__name__)

# Seconds that a claim waits for attempts; a renewal of the claim costs the orchestrator little.
_WAIT = 20.0
# Seconds between two claims that failed.
_PAUSE = 1.0
# Seconds in which the last reports of a runner that ends are sent.
_LAST_REPORTS = 5.0


@dataclass(frozen=True)
class Capacity:
    """How much a runner takes: attempts at once, cores and bytes that they may request together."""

    slots: int
    cpu: float
    memory: int


class Runner:
    """Executes attempts until it is told to leave.

    Args:
        ask: calls the orchestrator, as `Control.ask`.
        target: where the lease is renewed.
        tools: of the attempts; without `progress`, which is this runner's.
    """

    def __init__(self, ask: Ask, target: Target, capacity: Capacity, tools: Tools) -> None:
        self._ask = ask
        self._target = target
        self._capacity = capacity
        self._tools = tools
        self._running: dict[Name, tuple[asyncio.Task[pb.Outcome], Execution]] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._reports = Reports(ask, self._unwanted)
        self._leaving = asyncio.Event()
        self._lost: asyncio.Event = asyncio.Event()
        self._id = ""
        # The claim that is not answered yet.
        self._claim: pb.ClaimAttemptsRequest | None = None

    @property
    def running(self) -> int:
        """How many attempts it executes."""
        return len(self._running)

    def progress(self, attempt: pb.Attempt, evaluating: bool) -> None:
        """Say how far an attempt is."""
        self._reports.put(
            pb.AttemptReport(
                task_id=attempt.task_id,
                fence=attempt.fence,
                progress=pb.AttemptProgress(evaluating=evaluating),
            )
        )

    async def run(self) -> None:
        """One lease after the other; returns once it has left, and nothing runs any more."""
        while not self._leaving.is_set():
            await self._one_lease()

    def leave(self, grace: float | None) -> None:
        """Claim no more; what runs gets so many seconds (None: all it takes), and is given to another runner then."""
        self._leaving.set()
        if grace is None:
            return
        stopped = Stopped("runner_lost", "its runner was told to end")
        asyncio.get_running_loop().call_later(grace, self._stop_all, stopped)

    async def _one_lease(self) -> None:
        self._lost = asyncio.Event()
        self._claim = None
        lease = await self._registered()
        if lease is None:
            return
        loop = asyncio.get_running_loop()
        keeper = Keeper(
            self._target,
            self._id,
            lease,
            revoked=lambda names: _soon(loop, self._revoke, names),
            lost=lambda why: _soon(loop, self._lose, why),
        )
        self._reports = Reports(self._ask, self._unwanted)
        reporting = asyncio.create_task(self._reports.run())
        claiming = asyncio.create_task(self._claim_all(lease))
        lost = asyncio.create_task(self._lost.wait())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait({claiming, lost, leaving}, return_when=asyncio.FIRST_COMPLETED)
            claiming.cancel()
            if not self._lost.is_set():
                await self._drain()
            while self._running:
                await asyncio.wait([task for task, _ in self._running.values()])
            keeper.stopped()
            if not self._lost.is_set():
                await asyncio.wait(
                    {asyncio.ensure_future(self._reports.sent())}, timeout=_LAST_REPORTS
                )
            if claiming.done() and not claiming.cancelled():
                claiming.result()
        finally:
            for task in (reporting, claiming, lost, leaving):
                task.cancel()
            await asyncio.to_thread(keeper.close)

    async def _drain(self) -> None:
        """Tells that it claims no more; what was given to a claim that is broken off is given back."""
        try:
            async with asyncio.timeout(_LAST_REPORTS):
                if self._claim is not None:
                    self._claim.wait_s = 0.0
                    given = await self._ask("ClaimAttempts", self._claim)
                    for attempt in given.attempts:
                        self._give_back(attempt)
                await self._ask("DrainRunner", pb.RunnerRequest(runner_id=self._id))
        except (MegaflowError, TimeoutError) as error:
            logger.warning("the orchestrator was not told that this runner leaves: %s", error)

    def _give_back(self, attempt: pb.Attempt) -> None:
        execution = Execution(attempt, self._tools)
        execution.stopped = Stopped("runner_lost", "its runner was told to end")
        self._report(attempt.task_id, attempt.fence, execution.never_began())

    async def _registered(self) -> Lease | None:
        """A lease under a new name; None where this runner is to leave before it has one."""
        capacity = self._capacity
        while not self._leaving.is_set():
            self._id = secrets.token_hex(8)
            request = pb.RegisterRunnerRequest(
                runner_id=self._id,
                slots=capacity.slots,
                capacity=pb.Amount(cpu=capacity.cpu, memory=capacity.memory),
            )
            sent = time.monotonic()
            try:
                given = await self._ask("RegisterRunner", request)
            except MegaflowError as error:
                if not error.infrastructure and not isinstance(error, FailedPrecondition):
                    raise
                logger.warning("no lease yet: %s", error.message)
                await asyncio.sleep(_PAUSE)
            else:
                return Lease(sent, renew=given.renew_s, stop=given.stop_s, clock=time.monotonic)
        return None

    async def _claim_all(self, lease: Lease) -> None:
        number = 1
        while lease.held:
            await self._room.wait()
            request = pb.ClaimAttemptsRequest(
                runner_id=self._id,
                most=self._capacity.slots - len(self._running),
                request=number,
                wait_s=_WAIT,
            )
            self._claim = request
            try:
                answer = await self._ask("ClaimAttempts", request, wait=_WAIT)
            except MegaflowError as error:
                # The same number again: what was given and not heard of is given once more.
                logger.warning("a claim failed: %s", error.message)
                await asyncio.sleep(_PAUSE)
                continue
            number += 1
            self._claim = None
            for attempt in answer.attempts:
                self._begin(attempt)

    def _begin(self, attempt: pb.Attempt) -> None:
        name = (attempt.task_id, attempt.fence)
        execution = Execution(attempt, self._tools)
        task = asyncio.create_task(execution.run())
        self._running[name] = (task, execution)
        task.add_done_callback(partial(self._ended, name, execution))
        if len(self._running) >= self._capacity.slots:
            self._room.clear()

    def _ended(self, name: Name, execution: Execution, task: asyncio.Task[pb.Outcome]) -> None:
        del self._running[name]
        self._room.set()
        outcome = execution.never_began() if task.cancelled() else task.result()
        if not self._lost.is_set():  # else it is another runner's by now
            self._report(*name, outcome, execution.peak)

    def _report(
        self, task: str, fence: int, outcome: pb.Outcome, peak: pb.Amount | None = None
    ) -> None:
        report = pb.AttemptReport(task_id=task, fence=fence, outcome=outcome, peak=peak)
        self._reports.put(report)

    def _unwanted(self, task: str, fence: int, reason: str) -> None:
        self._stop([(task, fence)], Stopped("cancelled", reason))

    def _revoke(self, names: Sequence[Name]) -> None:
        self._stop(names, Stopped("cancelled", "the orchestrator has it stopped"))

    def _lose(self, why: str) -> None:
        self._lost.set()
        self._stop_all(Stopped("runner_lost", why))

    def _stop_all(self, stopped: Stopped) -> None:
        self._stop(list(self._running), stopped)

    def _stop(self, names: Sequence[Name], stopped: Stopped) -> None:
        for name in names:
            task, execution = self._running.get(name, (None, None))
            if task is not None and execution is not None and execution.stopped is None:
                execution.stopped = stopped
                task.cancel()


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> None:
    """From the thread that keeps the lease; nothing where the loop has ended."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        logger.debug("the event loop has ended already")
