"""Group commit: commands that come while a transaction is under way go into the next one together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from megaflow.errors import MegaflowError, Unavailable
from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import AddTasks, Claim, Command, Renew
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Store

__all__ = ["Writer"]

# What one transaction does: enough that a commit's cost is shared, so little that none waits long for the rest.
_MOST = 256


class _Asked(NamedTuple):
    command: Command
    answer: Future[Any]


class Writer:
    """A thread that carries out commands on a store, many in one transaction.

    An answer is given once its transaction is committed, so that what was answered is never lost. Where a
    transaction fails, every command of it is answered with that.

    Args:
        took: told how long each transaction took, in seconds, on the writer's thread.
    """

    def __init__(
        self,
        store: Store,
        policy: RetryPolicy,
        clock: Callable[[], float] = time.time,
        took: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._took = took
        self._queues: tuple[deque[_Asked], deque[_Asked]] = (deque(), deque())
        self._asked = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="orchestrator-writer", daemon=True)
        self._thread.start()

    def ask(self, command: Command) -> Future[Any]:
        """Have a command carried out; the future has its answer, or the error it was refused with."""
        answer: Future[Any] = Future()
        with self._asked:
            self._queues[not isinstance(command, _URGENT)].append(_Asked(command, answer))
            self._asked.notify()
        return answer

    def close(self) -> None:
        """Carry out what was asked before, and end."""
        with self._asked:
            self._closed = True
            self._asked.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._commit([asked for asked in batch if asked.answer.set_running_or_notify_cancel()])

    def _next(self) -> list[_Asked]:
        """What goes into the next transaction, the urgent first; nothing once it is closed and all is done."""
        with self._asked:
            self._asked.wait_for(lambda: self._closed or any(self._queues))
            batch: list[_Asked] = []
            work = 0
            for waiting in self._queues:
                while waiting and work < _MOST:
                    batch.append(waiting.popleft())
                    work += _work(batch[-1].command)
            return batch

    def _commit(self, batch: Sequence[_Asked]) -> None:
        if not batch:
            return
        commands = [asked.command for asked in batch]
        outcomes: list[Any] = []
        begun = time.perf_counter()
        try:
            outcomes = carry_out(self._store, commands, self._clock, self._policy)
        except Exception as error:
            failure = error if isinstance(error, MegaflowError) else _unavailable(error)
            outcomes = [failure] * len(batch)
        self._took(time.perf_counter() - begun)
        for asked, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, MegaflowError):
                asked.answer.set_exception(outcome)
            else:
                asked.answer.set_result(outcome)


# A runner that is kept waiting loses its lease, or idles; and these are few, since a runner has one of each at a time.
_URGENT: Final = (Renew, Claim)


def _work(command: Command) -> int:
    """How many tasks it may change."""
    match command:
        case AddTasks(tasks=tasks):
            return len(tasks)
        case Claim(most=most):
            return most
    return 1


def _unavailable(error: Exception) -> Unavailable:
    """What a database's own error is to whoever asked; whether the transaction happened may be unknown."""
    failure = Unavailable(
        f"the store failed: {type(error).__name__}: {error}. Ask again: commands are safe to repeat"
    )
    failure.__cause__ = error
    return failure
