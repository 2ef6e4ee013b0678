"""Which sessions there are, whose each is, and what became of those that have ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from megaflow.errors import NotFound, PermissionDenied, SessionLost
from megaflow_server.gateway.leases import Memory
from megaflow_server.gateway.records import Session, Shard

# Processes that have ended are remembered, so that what they asked for a moment before is not opened for them.
_ENDED_CLIENTS = 1000


class Registry:
    """Sessions by their ids, and for a while why they ended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._sessions: dict[str, Session] = {}
        self._memory = Memory(clock)
        self._ended_clients: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._sessions

    def all(self) -> list[Session]:
        return list(self._sessions.values())

    def add(self, session: Session) -> None:
        self._sessions[session.id] = session

    def drop(self, session: Session) -> bool:
        """Whether it was there."""
        return self._sessions.pop(session.id, None) is not None

    def remember(self, session: Session, reason: str) -> None:
        """Keeps why it ended for whoever asks."""
        self._memory.put(session.id, session.owner, reason)

    def find(self, session_id: str) -> Session | None:
        """The session, whosever it is; None where there is none."""
        return self._sessions.get(session_id)

    def get(self, session_id: str, owner: str) -> Session:
        """Raises NotFound, PermissionDenied, or SessionLost with what ended it."""
        session = self._sessions.get(session_id)
        ended = self._memory.get(session_id) if session is None else None
        known = session or ended
        if known is None:
            raise unknown(session_id)
        if known.owner != owner:
            raise PermissionDenied(f"session {session_id!r} belongs to another principal")
        if ended is not None:
            raise SessionLost(ended.reason)
        assert session is not None
        return session

    def client_came(self, client_id: str) -> None:
        """A process by this name uses the server."""
        self._ended_clients.pop(client_id, None)

    def client_ended(self, client_id: str) -> list[Session]:
        """A process has ended: what it opened."""
        self._ended_clients[client_id] = None
        if len(self._ended_clients) > _ENDED_CLIENTS:
            self._ended_clients.popitem(last=False)
        return [one for one in self._sessions.values() if one.client == client_id]

    def has_ended(self, client_id: str) -> bool:
        """Whether the last that was heard of a process is its end."""
        return client_id in self._ended_clients


def shard_of(session: Session, shard_id: str) -> Shard:
    """Raises NotFound where it has no such shard."""
    shard = session.shards.get(shard_id)
    if shard is None:
        raise NotFound(f"session {session.id} has no shard {shard_id!r}: it was closed")
    return shard


def unknown(session_id: str) -> NotFound:
    return NotFound(f"there is no session {session_id!r}: it was closed, or never was here")


def shut_out(owner: str) -> str:
    """Why a principal has no sessions any more."""
    return f"each token of {owner} that opened sessions was revoked or has expired"


def client_has_ended(session: Session) -> str:
    """Why a session ends when the process that opened it has."""
    return f"session {session.id} has ended: the process that opened it has"
