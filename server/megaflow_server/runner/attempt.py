"""One attempt: its environment is opened, its agent runs, it is evaluated, and all of it is written down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from gymnasium.spaces import Text

from megaflow.agent import Agent, AgentTask, called
from megaflow.async_client import AsyncClient
from megaflow.async_env import AsyncRemoteEnv
from megaflow.errors import (
    FailedPrecondition,
    MegaflowError,
    ResourceExhausted,
    SessionLost,
    Unavailable,
)
from megaflow.gateway_connection import OnBehalf, on_behalf
from megaflow.plugins import make_agent
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.runner.account import Account
from megaflow_server.runner.acting import AgentRaised, agents_code
from megaflow_server.runner.configured import ConfiguredModels
from megaflow_server.runner.environment import RecordedEnv
from megaflow_server.runner.failures import (
    EVALUATING,
    RUNNING,
    STARTING,
    Failed,
    environments_own,
    of_agent,
    of_budget,
    of_defect,
    of_environment,
    of_model,
)
from megaflow_server.runner.gateway import RunnerGateway
from megaflow_server.runner.inside import Inside
from megaflow_server.runner.models import AttemptModels
from megaflow_server.runner.rescoring import begin_from, keep_snapshot
from megaflow_server.runner.rewards import HEADLINE, checked, headline
from megaflow_server.runner.spending import JobBudgets
from megaflow_server.trajectories import TrajectoryStore

__all__ = ["Execution", "Stopped", "Tools"]

# Seconds for which a server that is away, or full, is asked again for an environment.
_PATIENCE: Final = 120.0
_PAUSE: Final = 0.5
# Seconds that closing what an attempt had may take.
_CLOSING: Final = 2.0
# Seconds for which a sandbox outlives its attempt where it is to: a night.
_KEPT: Final = 86400.0


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What all attempts of a runner share.

    Attributes:
        progress: told that an attempt's environment is there (False), then that its agent is done (True).
        server_id: of the server, as far as is known.
        server_gone: whether the server is another than that of this id by now, or none.
        peak: what a session used at most, whose environment is closed; None where that is not known.
        deadlines: env_start_timeout, reset_timeout and step_timeout of every environment.
        models: what tasks may name by configuration.
        budgets: what jobs may cost.
        gateway: serves models to agents that run in sandboxes.
        imports: whether agents and models may be named as `module:Class`.
    """

    client: AsyncClient
    store: TrajectoryStore
    progress: Callable[[pb.Attempt, bool], None]
    server_id: Callable[[], str]
    server_gone: Callable[[str], Awaitable[bool]]
    peak: Callable[[str], Awaitable[pb.Amount | None]]
    deadlines: Mapping[str, float | None]
    models: ConfiguredModels = field(default_factory=lambda: ConfiguredModels({}))
    budgets: JobBudgets = field(default_factory=JobBudgets)
    gateway: RunnerGateway = field(default_factory=RunnerGateway)
    imports: bool = False


class Stopped(Exception):
    """An attempt is to stop: the message says why; `kind` is that of its failure."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Execution:
    """The execution of one attempt, made when it is claimed; `run` once.

    Attributes:
        stopped: set by who cancels the task that runs it.
        peak: the most that it used, once `run` has returned; None where that is not known.
    """

    def __init__(self, attempt: pb.Attempt, tools: Tools) -> None:
        self.attempt = attempt
        self.stopped: Stopped | None = None
        self.peak: pb.Amount | None = None
        self._tools = tools
        self._began = time.monotonic()
        self._phase = STARTING
        self._name = f"{attempt.task_id}.{attempt.fence}"
        self._document: Mapping[str, Any] = json.loads(attempt.document)
        self._spending = tools.budgets.begin(attempt)
        self._env: AsyncRemoteEnv | None = None
        self._recorded: RecordedEnv | None = None
        self._agent: Agent | None = None
        self._models: AttemptModels | None = None
        self._evaluates = False
        self._server_id = ""
        self._session_id = ""
        self._is_failure = True

    def never_began(self) -> pb.Outcome:
        """The outcome of one that was cancelled before `run` began."""
        stopped = self.stopped or Stopped("runner_lost", "the runner ended")
        failure = pb.TaskFailure(kind=stopped.kind, phase=STARTING, reason=str(stopped))
        return self._spent(pb.Outcome(valid=False, failure=failure))

    async def run(self) -> pb.Outcome:
        """How it ended; cancelled, too, it says how far it came."""
        if (over := self._spending.over()) is not None:
            self.stopped = Stopped("cancelled", over)
            return self.never_began()
        return self._spent(await self._run())

    def _spent(self, outcome: pb.Outcome) -> pb.Outcome:
        """The outcome, with what its calls have cost."""
        self._spending.end()
        if self._document["models"]:
            outcome.cost.CopyFrom(self._spending.cost())
        return outcome

    async def _run(self) -> pb.Outcome:
        account: Account | None = None
        # Of this task of the event loop alone.
        attempt, mode = self.attempt, self._document["mode"]
        on_behalf.set(OnBehalf(attempt.tenant, attempt.task_id, mode, attempt.alone))
        try:
            writer = self._tools.store.writer(self._name)
            account = Account(self.attempt, self._name, self._document, writer)
            outcome = await self._through(account)
        except asyncio.CancelledError:
            stopped = self.stopped or Stopped("runner_lost", "the runner ended")
            outcome = self._invalid(Failed(stopped.kind, self._phase, str(stopped)))
            await self._spoilt(account, outcome, ended=False)
        except Failed as failed:
            outcome = self._invalid(failed)
            await self._spoilt(account, outcome, ended=True)
        except Exception as error:
            outcome = self._invalid(of_defect(error, self._phase))
            await self._spoilt(account, outcome, ended=True)
        finally:
            await self._close()
        return outcome

    async def _through(self, account: Account) -> pb.Outcome:
        try:
            await self._start(account)
        finally:
            await account.begin()
        self._enter(RUNNING)
        failed = await (self._rescored() if self._document["rescores"] else self._act())
        if failed is not None:
            await account.writer.append(failed.record())
        self._enter(EVALUATING)
        if self._document["snapshot"]:
            assert self._env is not None
            await keep_snapshot(self._env, account.writer)
        rewards = await self._evaluate()
        reward = headline(rewards)
        self._is_failure = failed is not None or not reward > 0
        await account.judged(reward, rewards, failed=failed is not None)
        await self._close()
        await account.commit()
        return pb.Outcome(
            valid=True,
            reward=reward,
            rewards=rewards,
            failure=None if failed is None else failed.message(),
            trajectory=self._tools.store.path(self._name),
        )

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._tools.progress(self.attempt, phase == EVALUATING)

    async def _start(self, account: Account) -> None:
        document, imports = self._document, self._tools.imports
        try:
            with agents_code():
                agent = make_agent(
                    document["agent"], document["agent_kwargs"] or {}, imports=imports
                )
            self._agent = agent
            self._models = AttemptModels(
                document["models"],
                self.attempt,
                account.writer,
                needed=agent.roles,
                imports=imports,
                configured=self._tools.models,
                spending=self._spending,
                gateway=self._tools.gateway,
            )
            env = self._env = await self._opened()
            self._session_id = env.session_id
            if self._document["keep"] != "none":
                await env.keep_sandbox(_KEPT, lost_only=True)
            self._evaluates = bool(await env.call("has_wrapper_attr", "evaluate"))
            if self._document["snapshot"] and await env.call("has_wrapper_attr", "defer_verdict"):
                await env.call("defer_verdict")
            instruction = None
            if isinstance(env.observation_space, Text) and await env.call(
                "has_wrapper_attr", "instruction"
            ):
                instruction = str(await env.call("instruction"))
        except Exception as error:
            raise await self._failed(error) from error
        self._recorded = RecordedEnv(
            env,
            account.writer,
            self.attempt.seed,
            solves=agent.uses_solution,
            inside=Inside(self._tools.client, self._models, self._tools.gateway),
        )
        await account.begin(instruction)
        self._task = AgentTask(
            id=self.attempt.task_id,
            env=document["environment"],
            observation_space=env.observation_space,
            action_space=env.action_space,
            instruction=instruction,
            seed=self.attempt.seed,
            sample=self.attempt.sample,
            kwargs=MappingProxyType(dict(document["agent_kwargs"] or {})),
        )

    async def _opened(self) -> AsyncRemoteEnv:
        """The environment; a server that is away, or full, is waited for."""
        latest = time.monotonic() + _PATIENCE
        while True:
            self._server_id = self._tools.server_id()
            try:
                return await self._tools.client.make(
                    self._document["environment"],
                    env_kwargs=self._document["env_kwargs"] or {},
                    **self._tools.deadlines,  # type: ignore[arg-type]
                )
            except (Unavailable, ResourceExhausted) as error:
                if time.monotonic() >= latest:
                    raise
                await asyncio.sleep(_PAUSE if error.retry_after is None else error.retry_after)

    async def _act(self) -> Failed | None:
        """Runs the agent; what was its own failure, if anything. Raises Failed for what was not."""
        assert self._agent is not None
        assert self._recorded is not None
        assert self._models is not None
        recorded, failed = self._recorded, None
        seconds = self._agent_seconds()
        try:
            async with asyncio.timeout(seconds):
                with agents_code():
                    await self._agent.run(self._task, recorded, self._models.by_role)
        except TimeoutError as error:
            # An agent may have raised this itself.
            failed = of_agent(error)
            if seconds is not None and time.monotonic() - self._began >= seconds:
                limit = self.attempt.limits.start_to_close
                reason = (
                    f"start_to_close: the agent was not done when {limit:g} s had nearly passed"
                )
                failed = Failed("timeout", RUNNING, reason, valid=True)
        except Exception as error:
            failed = of_agent(error.__cause__ or error if isinstance(error, AgentRaised) else error)
        if recorded.failure is not None:
            raise await self._of_environment(recorded.failure)
        if recorded.pending:
            call = recorded.pending
            reason = f"its {call} was still under way when the agent had to stop"
            raise Failed(
                "environment", RUNNING, reason if failed is None else f"{reason} ({failed.reason})"
            )
        if self._models.refused is not None:
            raise of_budget(self._models.refused)
        if self._models.failure is not None:
            raise of_model(self._models.failure)
        return failed

    async def _rescored(self) -> None:
        """Nobody acts. Raises Failed where there is nothing to be evaluated again."""
        assert self._recorded is not None
        try:
            if not self._evaluates:
                raise FailedPrecondition(
                    f"{self._document['environment']} has no evaluate(): its reward is that of its steps"
                )
            await begin_from(self._recorded, self.attempt.task_id, self._document["rescores"])
        except Exception as error:
            raise await self._failed(error) from error

    def _agent_seconds(self) -> float | None:
        """What the attempt's limit leaves for the agent, with some for its evaluation."""
        if not self.attempt.limits.HasField("start_to_close"):
            return None
        limit = self.attempt.limits.start_to_close
        kept = min(max(1.0, limit / 10), limit / 2, 60.0)
        return max(0.0, limit - kept - (time.monotonic() - self._began))

    async def _evaluate(self) -> dict[str, float]:
        """The named rewards. Raises Failed where there are none."""
        assert self._recorded is not None
        assert self._env is not None
        try:
            if not self._recorded.begun:
                await self._recorded.reset()
            if not self._evaluates:
                return checked({HEADLINE: self._recorded.total})
            given = await self._env.call("evaluate")
        except Exception as error:
            raise await self._failed(error) from error
        return checked(given if isinstance(given, Mapping) else {HEADLINE: given})

    async def _failed(self, error: Exception) -> Failed:
        failure = environments_own(error)
        return (
            of_defect(error, self._phase)
            if failure is None
            else await self._of_environment(failure)
        )

    async def _of_environment(self, error: MegaflowError) -> Failed:
        gone = isinstance(error, SessionLost) and await self._tools.server_gone(self._server_id)
        return of_environment(error, self._phase, server_gone=gone)

    def _invalid(self, failed: Failed) -> pb.Outcome:
        path = self._tools.store.path(self._name)
        return pb.Outcome(valid=False, failure=failed.message(), trajectory=path)

    async def _spoilt(self, account: Account | None, outcome: pb.Outcome, *, ended: bool) -> None:
        if account is None:
            outcome.trajectory = ""
        else:
            await account.spoilt(outcome, ended=ended)

    async def _close(self) -> None:
        """Gives back what it had, as far as that is still there."""
        env, agent, models = self._env, self._agent, self._models
        self._env = self._agent = self._models = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                if env is not None:
                    await self._close_env(env)
                if models is not None:
                    await models.close()
                if agent is not None:
                    with suppress(Exception), agents_code():  # the attempt is judged already
                        await called(agent.close)

    def _keeps(self) -> bool:
        """Whether somebody is to look at its sandbox; what was called off shows nothing."""
        keep = self._document["keep"]
        return self.stopped is None and (keep == "all" or (keep == "failed" and self._is_failure))

    async def _close_env(self, env: AsyncRemoteEnv) -> None:
        with suppress(MegaflowError):  # its end is the server's, too, by its lease
            if self._keeps():
                await env.keep_sandbox(_KEPT)
            await env.close()
            self.peak = await self._tools.peak(self._session_id)
