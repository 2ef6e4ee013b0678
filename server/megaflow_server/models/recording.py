"""Trajectories of sessions of models that nobody else records: what was called, and nothing of an environment."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets

from megaflow.calls import CallRecord
from megaflow.errors import MegaflowError, Superseded
from megaflow.trajectory import End, ModelCall, Start
from megaflow_server.models.sessions import ModelSession
from megaflow_server.trajectories import TrajectoryStore

__all__ = ["Recorder"]

_LOG = logging.getLogger(__name__)
_ODD = re.compile(r"[^A-Za-z0-9-]")
# Letters of a rollout's id that stand in its trajectory's name; the whole of it stands inside.
_LONGEST = 80


class Recorder:
    """A trajectory for each session, from its opening to its end."""

    def __init__(self, store: TrajectoryStore) -> None:
        self._store = store
        self._closing: set[asyncio.Task[None]] = set()

    async def record(self, session: ModelSession) -> str:
        """Begin a session's trajectory, and make it the session's sink; where readers find it.

        It ends with the session, which its caller ends also where this raises.

        Raises:
            ResourceExhausted, Unavailable: it cannot be written.
        """
        owner, rollout = (_ODD.sub("_", name) for name in (session.owner, session.rollout_id))
        unique = f"{session.attempt}-{secrets.token_hex(4)}"
        name = f"{owner or 'nobody'}/{rollout[:_LONGEST]}-{unique}"
        writer = self._store.writer(name)

        async def keep(record: CallRecord) -> None:
            await writer.append(ModelCall(call=record.to_dict()))
            await writer.flush()

        async def close() -> None:
            try:
                superseded = isinstance(session.ended, Superseded)
                await writer.append(End(status="superseded" if superseded else "ended"))
                await writer.close()
            except MegaflowError as error:
                _LOG.error("trajectory %s: %s", name, error.message)

        def ended() -> None:
            task = asyncio.get_running_loop().create_task(close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        session.sink = keep
        session.on_end = ended
        await writer.append(_start(session))
        await writer.flush()
        return self._store.path(name)

    async def close(self) -> None:
        """Until all that ended are written; end sessions before."""
        while self._closing:
            await asyncio.wait(tuple(self._closing))
        await self._store.close()


def _start(session: ModelSession) -> Start:
    return Start(
        attempt_id=f"{session.rollout_id}/{session.attempt}",
        group_id=session.group_id,
        attempt=session.attempt,
        models={role: model.name for role, model in session.models.items()},
    )
