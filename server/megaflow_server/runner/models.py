"""The models of an attempt, by role: every call of theirs is recorded in its trajectory."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from typing import Any, Final

from megaflow.calls import CallRecord, Price
from megaflow.errors import BudgetExhausted, InvalidArgument, MegaflowError
from megaflow.generation import Event, Request
from megaflow.model import Model
from megaflow.plugins import make_model
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.trajectory.records import ModelCall
from megaflow_server.models.call import Call
from megaflow_server.models.catalogue import no_price
from megaflow_server.models.sessions import ModelSession
from megaflow_server.runner.configured import ConfiguredModels
from megaflow_server.runner.gateway import RunnerGateway
from megaflow_server.runner.spending import AttemptSpending
from megaflow_server.trajectories import TrajectoryWriter

__all__ = ["AttemptModels", "RoleModel", "without"]

# What an agent that is given models in this process speaks.
_DIALECT = "megaflow"
# Seconds that calls get to be recorded whose callers have gone away, and between two looks.
_SETTLED_WITHIN: Final = 2.0
_PAUSE: Final = 0.01
# What stands in a trajectory where the token of a session stood.
_HIDDEN: Final = "[token]"


def without(token: str, value: Any) -> Any:
    """A value as JSON has it, without the token that a program may have said aloud."""
    if isinstance(value, str):
        return value.replace(token, _HIDDEN)
    if isinstance(value, dict):
        return {key: without(token, one) for key, one in value.items()}
    if isinstance(value, list) and not (value and isinstance(value[0], int | float)):
        return [without(token, one) for one in value]
    return value


class RoleModel(Model):
    """What answers to one role."""

    def __init__(self, session: ModelSession, role: str) -> None:
        self.name = session.models[role].name
        self._session = session
        self._role = role

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """See `Model.stream`."""
        call = Call(self._session, dataclasses.replace(request, model=self._role), _DIALECT)
        async with aclosing(call.events()) as events:
            async for event in events:
                yield event


class AttemptModels:
    """The models that a task names.

    Args:
        needed: the roles that the agent cannot do without.
        configured: go before registered ones of the same names.
        spending: what their calls count in.
        gateway: serves them to agents that run in a sandbox.

    Attributes:
        refused: what a call of one of them was refused with, because its job has cost what it may.

    Raises:
        InvalidArgument: the task names no model for one of these, or one without a price, and its job's cost is
            limited.
        NotFound, InvalidArgument: see `megaflow.plugins.make_model` and `ConfiguredModels.get`.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        attempt: pb.Attempt,
        writer: TrajectoryWriter,
        *,
        needed: Collection[str],
        imports: bool,
        configured: ConfiguredModels,
        spending: AttemptSpending,
        gateway: RunnerGateway,
    ) -> None:
        if missing := [role for role in needed if role not in names]:
            raise InvalidArgument(
                f"models: the agent needs one as {', '.join(missing)}, and the task names none: give "
                f"models={{{missing[0]!r}: NAME}}, or megaflow run -m {missing[0]}=NAME"
            )
        self.refused: BudgetExhausted | None = None
        self._failures: dict[str, MegaflowError] = {}
        self._gateway = gateway
        self._session: ModelSession | None = None
        self._token = ""
        self._own: list[Model] = []
        models: dict[str, Model] = {}
        prices: dict[str, Price] = {}
        for role, name in names.items():
            served = configured.get(name)
            if served is None:
                model = make_model(name, imports=imports, others=configured.names)
            else:
                model = served.model
                if served.price is not None:
                    prices[role] = served.price
            if served is None or model.per_attempt:
                self._own.append(model)
            models[role] = model
        if spending.needs_prices and (lacking := [role for role in models if role not in prices]):
            raise no_price(names[lacking[0]])
        self.by_role: Mapping[str, RoleModel] = {}

        async def sink(record: CallRecord) -> None:
            told = record.to_dict()
            await writer.append(ModelCall(call=without(self._token, told) if self._token else told))

        if models:
            session = self._session = ModelSession(
                rollout_id=attempt.task_id,
                attempt=attempt.fence - 1,
                models=models,
                prices=prices,
                budgets=spending.budgets,
                sink=sink,
                group_id=attempt.group or None,
                default_role="policy" if "policy" in models else None,
                told=self._told,
            )
            self.by_role = {role: RoleModel(session, role) for role in models}

    def _told(self, role: str, error: MegaflowError | None) -> None:
        self._failures.pop(role, None)
        if isinstance(error, BudgetExhausted):
            self.refused = error
        if error is not None and error.infrastructure:
            self._failures[role] = error

    @property
    def failure(self) -> MegaflowError | None:
        """What the last call of one of them failed with, where that was infrastructure."""
        return next(iter(self._failures.values()), None)

    def serve(self) -> str:
        """The token by which the runner's gateway answers with these models, until they are closed.

        Raises:
            InvalidArgument: there are none.
        """
        if self._session is None:
            raise InvalidArgument(
                "models: an agent that runs in its sandbox asks the task's models, and it names none: give "
                "models={'policy': NAME}, or megaflow run -m policy=NAME"
            )
        self._token = self._token or self._gateway.open(self._session)
        return self._token

    async def settle(self) -> None:
        """Wait until the calls are recorded whose callers have just gone away."""
        latest = time.monotonic() + _SETTLED_WITHIN
        session = self._session
        while session and session.cut and time.monotonic() < latest:  # noqa: ASYNC110  # calls end, and tell nobody
            await asyncio.sleep(_PAUSE)

    async def close(self) -> None:
        if self._token:
            self._gateway.close_session(self._token)
        for model in self._own:
            await model.close()
