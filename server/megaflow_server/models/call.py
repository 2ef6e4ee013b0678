"""One call of a model: its events to whoever asked, and its record to the session's sink, whatever happens."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from decimal import Decimal
from typing import Any, TypeVar

from megaflow.calls import CallRecord
from megaflow.calls.budgets import Charge, begin
from megaflow.dialects import http_status
from megaflow.dialects.chat_messages import answer_json, messages_json, tools_json
from megaflow.dialects.sampling import sampling_json
from megaflow.errors import BudgetExhausted, MegaflowError, Unavailable
from megaflow.generation import Assembler, Completion, Event, Finish, Request, Sampling, Usage
from megaflow_server.models.sessions import ModelSession

__all__ = ["Call"]

T = TypeVar("T")

# What the record of a call says whose caller went away, as nginx does.
_CLIENT_CLOSED = 499


class Call:
    """A call under way.

    The record is in the sink before the end of the answer is handed on: who has an answer whole can rely on
    its record. A call whose session has ended is neither recorded nor answered.
    """

    def __init__(self, session: ModelSession, request: Request, dialect: str) -> None:
        self.id = secrets.token_hex(12)
        self._session = session
        self._role = session.role(request.model)
        self._model = session.models[self._role]
        self._price = session.prices.get(self._role)
        self._request = dataclasses.replace(
            request,
            sampling=_under(request.sampling, session.sampling),
            rollout=session.rollout_id or None,
        )
        self._dialect = dialect
        self._whole = Assembler(self._model.name)
        self._began = time.monotonic()
        self._started = time.time()
        self._first: float | None = None
        self._recorded = False
        self._cut = False
        self._late: BudgetExhausted | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """The answer's events; `Finish` once the call is recorded. Runs in one task."""
        task = asyncio.current_task()
        assert task is not None

        def cut() -> None:
            self._cut = True
            if self._late is None:
                task.cancel()

        priced = self._price is not None
        session = self._session
        self._tell(None)
        try:
            charge = begin(session.budgets, self._model.name, priced=priced, rate=session.rate)
        except MegaflowError as error:
            self._tell(error)
            raise
        timer = self._until_late(charge, task)
        self._session.cut.add(cut)
        try:
            finish: Finish | None = None
            async with aclosing(self._model.stream(self._request)) as stream:
                async for event in stream:
                    self._session.check()
                    if self._first is None:
                        self._first = time.monotonic() - self._began
                    self._whole.add(event)
                    if isinstance(event, Finish):
                        finish = event
                        break
                    yield event
            if finish is None:
                raise Unavailable(f"model {self._model.name!r} ended its answer without an end")
            if timer is not None:
                timer.cancel()
            if self._late is not None:
                await asyncio.sleep(0)  # where the cancellation that is on its way arrives
            await self._record(200)
            yield finish
        except MegaflowError as error:
            await self._failed(error)
            raise
        except (asyncio.CancelledError, GeneratorExit) as gone:
            ours = self._cut or self._late is not None
            if ours and isinstance(gone, asyncio.CancelledError) and not task.uncancel():
                self._session.check()
                if self._late is not None:
                    await self._failed(self._late)
                    raise self._late from None
            await asyncio.shield(self._given_up())
            raise
        except Exception as error:
            told = Unavailable(f"model {self._model.name!r} raised {type(error).__name__}")
            await self._failed(told)
            raise told from error
        finally:
            self._session.cut.discard(cut)
            if timer is not None:
                timer.cancel()
            answer = self._whole.completion()
            charge.end(_tokens(answer), self._cost(answer))

    def _until_late(self, charge: Charge, task: asyncio.Task[Any]) -> asyncio.TimerHandle | None:
        """Ends the call when the first of its budgets has no time left."""
        if (first := charge.first_late()) is None:
            return None
        seconds, budget = first

        def late() -> None:
            if not self._cut:
                self._late = budget.late()
                task.cancel()

        return asyncio.get_running_loop().call_later(seconds, late)

    def _cost(self, answer: Completion) -> Decimal | None:
        return None if self._price is None else self._price.cost(_tokens(answer))

    async def completion(self) -> Completion:
        """The whole answer, recorded."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self._whole.completion()

    def _tell(self, error: MegaflowError | None) -> None:
        if self._session.told is not None:
            self._session.told(self._role, error)

    async def _failed(self, error: MegaflowError) -> None:
        self._tell(error)
        if not self._recorded and self._session.ended is None:
            await self._record(http_status(error), error.message)

    async def _given_up(self) -> None:
        if self._late is not None:
            await self._failed(self._late)
        elif not self._recorded and self._session.ended is None:
            await self._record(_CLIENT_CLOSED, "the caller went away")

    async def _record(self, status: int, error: str | None = None) -> None:
        """Place and record, without a pause between: the order of records is that of their places."""
        self._session.check()
        self._recorded = True
        record = self._made(status, error)
        try:
            await self._session.sink(record)
        except MegaflowError:
            raise
        except Exception as failure:
            raise Unavailable(f"the call could not be recorded: {failure}") from failure

    def _made(self, status: int, error: str | None) -> CallRecord:
        answer = self._whole.completion()
        came = bool(answer.parts or answer.token_ids) or status == 200
        request = self._request
        cost = self._cost(answer)
        place = None
        if came and answer.prompt_token_ids is not None and answer.token_ids is not None:
            branches = self._session.branches[self._role]
            place = branches.place(self.id, answer.prompt_token_ids, answer.token_ids)
        prompt = request.prompt
        return CallRecord(
            rollout_id=self._session.rollout_id,
            call_id=self.id,
            attempt=self._session.attempt,
            group_id=self._session.group_id,
            parent=place.parent if place else None,
            branch=place.branch if place else None,
            role=self._role,
            model=self._model.name,
            dialect=self._dialect,
            messages=messages_json(request.messages),
            prompt=prompt if isinstance(prompt, str) else None,
            tools=tools_json(request.tools),
            sampling=sampling_json(request.sampling),
            response=answer_json(answer) if came else None,
            prompt_token_ids=_list(answer.prompt_token_ids),
            completion_token_ids=_list(answer.token_ids),
            logprobs=_list(answer.logprobs),
            loss_mask=None if answer.token_ids is None else [1] * len(answer.token_ids),
            weight_versions=_list(answer.weight_versions),
            finish_reason=answer.finish_reason if came else None,
            usage=_usage(answer),
            cost=None if cost is None else float(cost),
            started=self._started,
            latency=time.monotonic() - self._began,
            first_token=self._first,
            status=status,
            error=error,
        )


def _tokens(answer: Completion) -> Usage | None:
    """What the engine says it counted, or, of an answer that broke off, what came; None where nobody can tell."""
    if (
        answer.usage is None
        and answer.prompt_token_ids is not None
        and answer.token_ids is not None
    ):
        return Usage(len(answer.prompt_token_ids), len(answer.token_ids))
    return answer.usage


def _usage(answer: Completion) -> dict[str, int] | None:
    if answer.usage is None:
        return None
    counted = dataclasses.asdict(answer.usage)
    return {name: count for name, count in counted.items() if count is not None}


def _list(values: tuple[T, ...] | None) -> list[T] | None:
    return None if values is None else list(values)


def _under(asked: Sampling, defaults: Sampling) -> Sampling:
    """What was asked, and the defaults where nothing was."""
    empty = Sampling()
    laid = {
        each.name: getattr(defaults, each.name)
        for each in dataclasses.fields(Sampling)
        if getattr(asked, each.name) == getattr(empty, each.name)
    }
    return dataclasses.replace(asked, **laid)
