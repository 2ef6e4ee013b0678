"""The Model Service of a server: its models, the sessions that callers open on them, and what these may spend."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from megaflow.calls import Allowance, Budget, CallRecord, Rate
from megaflow.errors import MegaflowError, NotFound, ResourceExhausted, Unauthenticated, Unavailable
from megaflow.generation import Request
from megaflow_server.models.catalogue import ServedModel
from megaflow_server.models.recording import Recorder
from megaflow_server.models.requests import SessionRequest
from megaflow_server.models.sessions import ModelSession, ModelSessions

__all__ = ["ModelService", "OpenedSession"]

_DAY = 86_400.0
# Seconds between two looks for sessions that have expired, or whose owner may have none any more.
_SWEEP = 1.0
# Between two looks at what is under way when the server is to end; seconds.
_LOOK = 0.1
# Calls without a session that are under way at once; one more is told to come back.
_MOST_CALLS = 10_000


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """What its opener needs to know; `trajectory` is None where the server keeps none."""

    token: str
    trajectory: str | None


class ModelService:
    """An asynchronous context manager; sessions end with it.

    Args:
        served: the models, by name.
        daily: USD that a tenant may spend in a day, by its name; others have no limit.
        rates: calls that a tenant may begin in a minute, likewise.
        most: sessions at once, of everybody.
        holders: the principals that may have sessions now; None for everybody.
        recorder: writes a trajectory of each session; None: calls are answered, and recorded nowhere.
    """

    def __init__(
        self,
        served: Mapping[str, ServedModel],
        *,
        daily: Mapping[str, float] | None = None,
        rates: Mapping[str, float] | None = None,
        most: int = 10_000,
        holders: Callable[[], Container[str]] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.sessions = ModelSessions()
        self._served = dict(served)
        self._most = most
        self._opening = 0
        self._calling: set[ModelSession] = set()
        self._holders = holders
        self._recorder = recorder
        self._leaving = False
        # A day's money is counted from midnight, UTC, by the wall clock.
        self._tenants = {
            name: Budget(f"tenant {name}", Allowance(cost=usd), time.time, period=_DAY)
            for name, usd in (daily or {}).items()
        }
        self._rates = {
            name: Rate(f"tenant {name}", per_minute, time.monotonic)
            for name, per_minute in (rates or {}).items()
        }

    async def __aenter__(self) -> ModelService:
        self._sweeping = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving = True
        self._sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeping
        self.sessions.end_all(Unavailable("this server has ended"))
        self._end_calls(Unavailable("this server has ended"))
        if self._recorder is not None:
            await self._recorder.close()
        for each in self._served.values():
            await each.model.close()

    async def drain(self, *, grace: float, hurry: asyncio.Event) -> None:
        """Takes nothing new; returns when calls without a session have ended, after `grace` seconds or in a hurry."""
        self._leaving = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._calling and not hurry.is_set():  # noqa: ASYNC110  # they end in many ways
                    await asyncio.sleep(_LOOK)
        if self._calling:
            self._end_calls(
                Unavailable("this server was told to end, and waited for calls no longer")
            )
            await asyncio.sleep(_LOOK)  # in which their callers hear of it

    def _end_calls(self, why: MegaflowError) -> None:
        for session in tuple(self._calling):
            session.end(why)

    async def open(self, owner: str, request: SessionRequest) -> OpenedSession:
        """Open a session of a principal's.

        Raises:
            NotFound: there is no model of that name.
            InvalidArgument: its default role is none of its roles.
            Superseded: its rollout has a newer attempt.
            ResourceExhausted: there are as many as there may be, or the disk is full.
            Unavailable: its trajectory cannot be written, or the server ends.
        """
        if self._leaving:
            raise Unavailable("this server takes nothing new: it ends")
        session = self._session(owner, request)
        self.sessions.admit(session)
        if len(self.sessions) + self._opening >= self._most:
            raise ResourceExhausted(
                f"max_sessions: this server has the {self._most} sessions of models that it may have;"
                " end some, or have whoever runs it raise that",
                retry_after=1.0,
            )
        if self._recorder is None:
            return OpenedSession(self.sessions.open(session), None)
        self._opening += 1
        try:
            place = await self._recorder.record(session)
            return OpenedSession(self.sessions.open(session), place)
        except MegaflowError as error:
            session.end(error)
            raise
        except BaseException:
            session.end(Unavailable("who opened this session went away"))
            raise
        finally:
            self._opening -= 1

    def _session(self, owner: str, request: SessionRequest) -> ModelSession:
        chosen = {role: self.model(name) for role, name in request.models.items()}
        budgets = [Budget(f"rollout {request.rollout_id}", request.budget, time.monotonic)]
        if owner in self._tenants:
            budgets.append(self._tenants[owner])
        return ModelSession(
            rollout_id=request.rollout_id,
            owner=owner,
            models={role: each.model for role, each in chosen.items()},
            sink=_nowhere,
            attempt=request.attempt,
            group_id=request.group_id,
            default_role=request.default,
            sampling=request.sampling,
            lifetime=request.lifetime,
            prices={role: each.price for role, each in chosen.items() if each.price is not None},
            budgets=budgets,
            rate=self._rates.get(owner),
        )

    @contextmanager
    def call(self, owner: str, request: Request) -> Iterator[ModelSession]:
        """A session for one call of a principal's, with its rate and its money; nothing records it.

        Raises:
            NotFound: there is no model of that name.
            ResourceExhausted: too many calls are under way.
            Unavailable: the server ends.
        """
        if self._leaving:
            raise Unavailable("this server takes nothing new: it ends")
        if len(self._calling) >= _MOST_CALLS:
            raise ResourceExhausted("too many calls are under way", retry_after=1.0)
        served = self.model(request.model)
        session = ModelSession(
            rollout_id=request.rollout or "",
            owner=owner,
            models={served.name: served.model},
            sink=_nowhere,
            default_role=None,
            prices={} if served.price is None else {served.name: served.price},
            budgets=[self._tenants[owner]] if owner in self._tenants else [],
            rate=self._rates.get(owner),
        )
        self._calling.add(session)
        try:
            yield session
        finally:
            self._calling.discard(session)

    def served(self) -> list[ServedModel]:
        """The models, as the configuration has them."""
        return list(self._served.values())

    def find(self, owner: str, token: str) -> ModelSession:
        """A principal's own session; Unauthenticated for any other."""
        session = self.sessions.find(token)
        if session.owner != owner:
            raise Unauthenticated("this token opens no session of yours")
        return session

    def model(self, name: str) -> ServedModel:
        """A model; NotFound says what comes close."""
        if name in self._served:
            return self._served[name]
        close = difflib.get_close_matches(name, self._served, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(self._served)}"
        raise NotFound(f"models: {name!r} is no model of this server; {hint}")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            self.sessions.sweep()
            if self._holders is not None:
                self._keep_only(self._holders())

    def _keep_only(self, owners: Container[str]) -> None:
        self.sessions.keep_only(owners)
        for session in [each for each in self._calling if each.owner not in owners]:
            session.end(Unauthenticated("who made this call has no token any more"))


async def _nowhere(record: CallRecord) -> None:
    """The sink of sessions on a server that keeps no trajectories."""
