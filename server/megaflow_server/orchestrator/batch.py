"""Commands carried out together, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from megaflow.errors import MegaflowError
from megaflow_server.orchestrator.commands import Command
from megaflow_server.orchestrator.handlers import handle, keys
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.base import Conflict, Store

__all__ = ["carry_out"]

# Each time that transactions are in each other's way, one of them goes through.
_TRIES: Final = 20


def carry_out(
    store: Store, commands: Sequence[Command], clock: Callable[[], float], policy: RetryPolicy
) -> list[Any]:
    """Each command's answer, or the MegaflowError that it alone was refused with. All of it is committed then.

    Raises:
        Unavailable: the store's; nothing of it happened, or it is unknown whether it did.
    """
    for tried in range(_TRIES):
        try:
            return _carry_out(store, commands, clock(), policy)
        except Conflict:
            if tried + 1 == _TRIES:
                raise
    raise AssertionError("unreachable")


def _carry_out(
    store: Store, commands: Sequence[Command], now: float, policy: RetryPolicy
) -> list[Any]:
    answers: list[Any] = []
    with store.transaction() as tx:
        tx.fetch(keys(commands))
        for command in commands:
            try:
                answers.append(handle(command, tx, now, policy))
            except MegaflowError as refusal:
                answers.append(refusal)
    return answers
