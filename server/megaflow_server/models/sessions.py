"""Who may call which models: one session for each attempt, opened by a token and by nothing else."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from megaflow.calls import Branches, Budget, CallRecord, Price, Rate
from megaflow.errors import (
    InvalidArgument,
    MegaflowError,
    NotFound,
    Superseded,
    Unauthenticated,
)
from megaflow.generation import Sampling
from megaflow.model import Model

__all__ = ["ModelSession", "ModelSessions", "Sink"]

Sink = Callable[[CallRecord], Awaitable[None]]
"""Takes a record; what it keeps it has when it returns. Records must stay in the order of the calls to it."""

# Ended sessions whose end is remembered, so that their tokens are told why.
_REMEMBERED = 100_000


@dataclass(eq=False, kw_only=True)
class ModelSession:
    """The models that one attempt of a rollout may call.

    Attributes:
        rollout_id, attempt, group_id: stand in each record. An attempt with a higher number supersedes. A call of
            no rollout has "".
        owner: whose it is; rollouts of two owners have nothing to do with each other, whatever their ids.
        models: by role; `policy` is the one that is trained on.
        sink: where the records go.
        default_role: which role answers to a name that is neither a role nor a model of the session's, as
            programs with names of their own ask for; None refuses these.
        sampling: laid under each request: what the request sets wins.
        lifetime: seconds from opening to expiry; None for no limit.
        prices: by role; what a role without one costs is not known.
        budgets: that each call counts in, whatever its role: of the task, its job, its tenant.
        rate: how fast its calls may begin, with those of others that have the same one.
        on_end: called once, when it has ended.
        told: of each call's role: None where one begins, and what it failed with.
    """

    rollout_id: str
    models: Mapping[str, Model]
    sink: Sink
    attempt: int = 0
    group_id: str | None = None
    default_role: str | None = "policy"
    sampling: Sampling = field(default_factory=Sampling)
    lifetime: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    budgets: Sequence[Budget] = ()
    rate: Rate | None = None
    owner: str = ""
    on_end: Callable[[], None] | None = None
    told: Callable[[str, MegaflowError | None], None] | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise InvalidArgument("models: is empty; a session needs at least one")
        if self.default_role is not None and self.default_role not in self.models:
            raise InvalidArgument(
                f"default_role: {self.default_role!r} is none of {', '.join(sorted(self.models))}"
            )
        self.branches = {role: Branches() for role in self.models}
        self.expires: float | None = None
        self.ended: MegaflowError | None = None
        # Called once, when the session ends: what is under way stops.
        self.cut: set[Callable[[], None]] = set()

    def role(self, name: str) -> str:
        """The role that a request's model name means."""
        if name in self.models:
            return name
        for role, model in self.models.items():
            if model.name == name:
                return role
        if self.default_role is not None:
            return self.default_role
        known = sorted({*self.models, *(model.name for model in self.models.values())})
        raise NotFound(f"model: {name!r} is none of this session's: {', '.join(known)}")

    def check(self) -> None:
        """Raise where the session has ended."""
        if self.ended is not None:
            # A fresh one for each caller: an exception that is raised twice joins their tracebacks.
            raise type(self.ended)(self.ended.message)

    def end(self, why: MegaflowError) -> None:
        """End it, and what it has under way."""
        self.ended = why
        for cut in tuple(self.cut):
            cut()
        if self.on_end is not None:
            self.on_end()


class ModelSessions:
    """All sessions of this server, by token. Tokens are kept as hashes alone.

    Args:
        clock: seconds; monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[bytes, ModelSession] = {}
        # By rollout: its highest attempt, and that one's token. Stays when the session ends, so that an older
        # attempt that comes late does not pass for the newest.
        self._newest: OrderedDict[tuple[str, str], tuple[int, bytes]] = OrderedDict()
        self._ended: OrderedDict[bytes, MegaflowError] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, session: ModelSession) -> str:
        """Open a session; its token, 128 random bits.

        An older attempt of the same rollout is superseded, what it has under way included.

        Raises:
            Superseded: a newer attempt, or this very one, is open.
        """
        self.admit(session)
        rollout = (session.owner, session.rollout_id)
        if rollout in self._newest:
            _, older = self._newest[rollout]
            self._end(older, Superseded("a newer attempt of this rollout has begun"))
        token = secrets.token_hex(16)
        digest = _digest(token)
        if session.lifetime is not None:
            session.expires = self._clock() + session.lifetime
        self._open[digest] = session
        self._newest[rollout] = (session.attempt, digest)
        self._newest.move_to_end(rollout)
        self._forget()
        return token

    def admit(self, session: ModelSession) -> None:
        """Raises Superseded where `open` would."""
        newest = self._newest.get((session.owner, session.rollout_id))
        if newest is None:
            return
        attempt, digest = newest
        if (attempt, digest in self._open) >= (session.attempt, True):
            raise Superseded(
                f"rollout {session.rollout_id!r}: attempt {attempt} has begun, and"
                f" {session.attempt} is no newer"
            )

    def find(self, token: str) -> ModelSession:
        """The session that a token opens.

        Raises:
            Unauthenticated: none, or one that has expired or was closed.
            Superseded: one whose rollout has a newer attempt.
        """
        digest = _digest(token)
        session = self._open.get(digest)
        if session is None:
            ended = self._ended.get(digest)
            if ended is not None:
                raise type(ended)(ended.message)
            raise Unauthenticated(
                "this token opens no session; give the session's as the API key or in the path,"
                " /sessions/TOKEN/v1"
            )
        if session.expires is not None and self._clock() >= session.expires:
            self._end(digest, Unauthenticated("this session has expired"))
        session.check()
        return session

    def close(self, token: str) -> None:
        """End a session, and what it has under way; nothing happens where it has ended."""
        self._end(_digest(token), Unauthenticated("this session was closed"))

    def sweep(self) -> int:
        """End what has expired; how many that were. `find` ends what it meets; this the others."""
        now = self._clock()
        late = [
            digest
            for digest, session in self._open.items()
            if session.expires is not None and session.expires <= now
        ]
        for digest in late:
            self._end(digest, Unauthenticated("this session has expired"))
        return len(late)

    def keep_only(self, owners: Container[str]) -> None:
        """End the sessions of all others, whose last token was revoked or has expired."""
        gone = [digest for digest, each in self._open.items() if each.owner not in owners]
        for digest in gone:
            self._end(digest, Unauthenticated("the owner of this session has no token any more"))

    def end_all(self, why: MegaflowError) -> None:
        """End every session, and what they have under way."""
        for digest in tuple(self._open):
            self._end(digest, why)

    def _end(self, digest: bytes, why: MegaflowError) -> None:
        session = self._open.pop(digest, None)
        if session is None:
            return
        session.end(why)
        self._ended[digest] = why
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _forget(self) -> None:
        """Of the rollouts whose sessions have ended, keep the newest."""
        while len(self._newest) > _REMEMBERED + len(self._open):
            self._newest.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
