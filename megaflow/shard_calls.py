"""Requests to the shards of one vector environment, sent to all before the first reply is awaited."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from megaflow.errors import SessionLost
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.session import Session, Shard, decoded
from megaflow.transport.machine import Verb
from megaflow.transport.stream import ReplyTimeout

# A reply, or the loss of the shard that should have given it.
Outcome = pb.Reply | SessionLost


class Pending:
    """Requests on their way, at most one for each shard."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sent: list[tuple[Shard, int | SessionLost]] = []

    def send(self, requests: Sequence[tuple[Shard, Verb]]) -> None:
        """Sends each shard its verb; a loss at once is an outcome like any other.

        Whatever else keeps one from being sent is raised, and the others' replies will be dropped.
        """
        try:
            for shard, verb in requests:
                try:
                    self._sent.append((shard, self._session.send(shard, verb)))
                except SessionLost as loss:
                    self._sent.append((shard, loss))
        except BaseException:
            self._abandon(self._sent)
            self._sent = []
            raise

    def outcomes(self, timeout: float | None) -> list[tuple[Shard, Outcome]]:
        """What came of the requests, in the order of the shards' sub-environments.

        All replies are awaited before the first error is raised, so that none is left over.

        Raises:
            ReplyTimeout: not all replies came within so many seconds; they will be dropped when they come.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        outcomes: list[tuple[Shard, Outcome]] = []
        errors: list[Exception] = []
        sent, self._sent = sorted(self._sent, key=lambda one: one[0].first), []
        for position, (shard, sequence) in enumerate(sent):
            if isinstance(sequence, SessionLost):
                outcomes.append((shard, sequence))
                continue
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                outcomes.append((shard, self._session.wait(shard, sequence, left)))
            except SessionLost as loss:
                outcomes.append((shard, loss))
            except (ReplyTimeout, KeyboardInterrupt):
                self._abandon(sent[position:])
                raise
            except Exception as error:  # an environment's own: raised below, once all have answered
                errors.append(error)
        if errors:
            raise errors[0]
        return outcomes

    @staticmethod
    def _abandon(sent: Sequence[tuple[Shard, int | SessionLost]]) -> None:
        for shard, sequence in sent:
            if isinstance(sequence, int):
                shard.channel.abandon(sequence)


def all_of(losses: Sequence[SessionLost]) -> SessionLost:
    """One error for the losses of several shards."""
    messages = dict.fromkeys(loss.message for loss in losses)
    lost = sorted(index for loss in losses for index in loss.indices)
    return SessionLost("; ".join(messages), indices=lost)


class ShardCalls:
    """`call`, `set_attr` and look-ups over all shards; lost ones make them raise SessionLost."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pending = Pending(session)

    def start(self, verb: pb.Call) -> None:
        """Sends the call to every shard."""
        self._each(lambda _: verb)

    def finish(self, timeout: float | None) -> list[Any]:
        """The shards' results, one entry for each."""
        return [
            decoded(reply.value, "call") for reply in self._replies(self._pending.outcomes(timeout))
        ]

    def set_attr(self, name: str, entries: list[Any]) -> None:
        """Sets an attribute; `entries` has one value for each sub-environment."""
        verbs: dict[int, pb.SetAttr] = {}
        for shard in self._session.shards:
            data = values.encode(entries[shard.rows], path=name)
            verbs[shard.first] = pb.SetAttr(name=name, values=data, force=True)
        self._each(lambda shard: verbs[shard.first])
        self._replies(self._pending.outcomes(None))

    def _each(self, verb: Callable[[Shard], Verb]) -> None:
        lost = [shard.loss for shard in self._session.shards if shard.loss is not None]
        if lost:
            raise all_of(lost)
        self._pending.send([(shard, verb(shard)) for shard in self._session.shards])

    @staticmethod
    def _replies(outcomes: Sequence[tuple[Shard, Outcome]]) -> list[pb.Reply]:
        lost = [outcome for _, outcome in outcomes if isinstance(outcome, SessionLost)]
        if lost:
            raise all_of(lost)
        return [outcome for _, outcome in outcomes if isinstance(outcome, pb.Reply)]
