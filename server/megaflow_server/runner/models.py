"""The models of an attempt, by role: every call of theirs is recorded in its trajectory."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing

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
from megaflow_server.runner.spending import AttemptSpending
from megaflow_server.trajectories import TrajectoryWriter

__all__ = ["AttemptModels", "RoleModel"]

# What an agent that is given models in this process speaks.
_DIALECT = "megaflow"


class RoleModel(Model):
    """What answers to one role.

    Attributes:
        failure: what its last call failed with, where that was infrastructure.
        refused: what a call was refused with, because its job has cost what it may.
    """

    def __init__(self, session: ModelSession, role: str) -> None:
        self.name = session.models[role].name
        self.failure: MegaflowError | None = None
        self.refused: BudgetExhausted | None = None
        self._session = session
        self._role = role

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """See `Model.stream`."""
        call = Call(self._session, dataclasses.replace(request, model=self._role), _DIALECT)
        self.failure = None
        try:
            async with aclosing(call.events()) as events:
                async for event in events:
                    yield event
        except MegaflowError as error:
            if isinstance(error, BudgetExhausted):
                self.refused = error
            if error.infrastructure:
                self.failure = error
            raise


class AttemptModels:
    """The models that a task names.

    Args:
        needed: the roles that the agent cannot do without.
        configured: go before registered ones of the same names.
        spending: what their calls count in.

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
    ) -> None:
        if missing := [role for role in needed if role not in names]:
            raise InvalidArgument(
                f"models: the agent needs one as {', '.join(missing)}, and the task names none: give "
                f"models={{{missing[0]!r}: NAME}}, or megaflow run -m {missing[0]}=NAME"
            )
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
            await writer.append(ModelCall(call=record.to_dict()))

        if models:
            session = ModelSession(
                rollout_id=attempt.task_id,
                attempt=attempt.fence - 1,
                models=models,
                prices=prices,
                budgets=spending.budgets,
                sink=sink,
                group_id=attempt.group or None,
                default_role=None,
            )
            self.by_role = {role: RoleModel(session, role) for role in models}

    @property
    def failure(self) -> MegaflowError | None:
        """What the last call of one of them failed with."""
        return next((one.failure for one in self.by_role.values() if one.failure), None)

    @property
    def refused(self) -> BudgetExhausted | None:
        """What a call of one of them was refused with, because its job has cost what it may."""
        return next((one.refused for one in self.by_role.values() if one.refused), None)

    async def close(self) -> None:
        for model in self._own:
            await model.close()
