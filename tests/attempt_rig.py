"""Attempts in this process, without an orchestrator."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import runner_environments
from megaflow.async_client import AsyncClient
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.task import Task
from megaflow.trajectory import TrajectoryReader
from megaflow_server.gateway.task_documents import document_of
from megaflow_server.runner.attempt import Execution, Tools
from megaflow_server.trajectories import TrajectoryStore

assert runner_environments.__name__  # registers what the tests name


_OF_TASKS = ("env_kwargs", "agent_kwargs", "models", "mode", "keep", "snapshot", "rescores")


def attempt(environment: str, agent: str, **fields: Any) -> pb.Attempt:
    said = {name: fields.pop(name) for name in [*fields] if name in _OF_TASKS}
    document = document_of(Task(f"runner/{environment}-v0", agent, **said).message(0, 0, 1))
    return pb.Attempt(task_id="job/0", fence=1, seed=5, document=document, **fields)


class Rig:
    """Executes attempts in this process, with environments in it, too."""

    def __init__(self, client: AsyncClient, folder: Path) -> None:
        self.progress: list[bool] = []
        self.running = asyncio.Event()
        self.gone = False
        # What sessions used at most, and those that this was asked of.
        self.peak: pb.Amount | None = None
        self.asked: list[str] = []
        self.store = TrajectoryStore(str(folder))
        self.tools = Tools(
            client=client,
            store=self.store,
            progress=self._progress,
            server_id=lambda: "here",
            server_gone=self._gone,
            peak=self._peak,
            deadlines={"step_timeout": None},
        )

    def _progress(self, _: pb.Attempt, evaluating: bool) -> None:
        self.progress.append(evaluating)
        self.running.set()

    async def _peak(self, session: str) -> pb.Amount | None:
        self.asked.append(session)
        return self.peak

    async def _gone(self, known: str) -> bool:
        return self.gone

    def execution(self, *args: Any, **fields: Any) -> Execution:
        return Execution(attempt(*args, **fields), self.tools)

    async def run(self, *args: Any, **fields: Any) -> pb.Outcome:
        return await self.execution(*args, **fields).run()


def kinds(outcome: pb.Outcome) -> list[str]:
    """Of the records of its trajectory."""
    reader = TrajectoryReader(outcome.trajectory)
    return [record.kind for record in reader]
