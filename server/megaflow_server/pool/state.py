"""A pool's decisions: what is told goes in, what is to be done comes out; nothing is done here."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

from megaflow.errors import FailedPrecondition, InvalidArgument, MegaflowError, NotFound
from megaflow_server.pool import refusals
from megaflow_server.pool.actions import Action, Create, Destroy, Refuse, Reset, Serve
from megaflow_server.pool.counts import Counts
from megaflow_server.pool.members import Claim, Member, Where
from megaflow_server.pool.shared import Room, Shortage, Throttle
from megaflow_server.templates import Mode, PoolSize

__all__ = ["OVERCOMMIT", "PoolState"]

# There are never more than so many times as many instances as are meant to be.
OVERCOMMIT = 1.5
# Claims that wait at once; more are sent away.
_MOST_WAITING = 10_000
# How long an instance that nobody needs any more waits on; seconds.
_SURPLUS_SECONDS = 30.0
# What trying again does not help against.
_FINAL = (NotFound, InvalidArgument, FailedPrecondition)


class PoolState(Counts):
    """The instances of one template and image.

    Args:
        name: of the pool, for messages.
        new_id: gives a new instance's id.
        throttle: whose creations there are at once; whoever has one created gives its place back.
        room: what instances take here and in the pools that share it.
        shortage: none is created here that nobody waits for while somebody waits in another pool.
        clock: gives seconds.
    """

    def __init__(
        self,
        name: str,
        size: PoolSize,
        mode: Mode,
        *,
        new_id: Callable[[], str],
        throttle: Throttle,
        room: Room,
        shortage: Shortage,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(size, mode, room, clock)
        self.created_count = self.reused = self.quarantined = self.failed = 0
        self.fault: str | None = None
        self._name = name
        self._new_id = new_id
        self._throttle = throttle
        self._shortage = shortage
        self._is_short = False
        self._clock = clock
        # Whether it had fewer instances than it should when it last decided: another pool may make room.
        self.lacks = False
        self._actions: list[Action] = []
        # Nothing is made any more, and everything ends.
        self.closed = False

    # What is told.

    def claim(self, number: int, owner: str, deadline: float = math.inf) -> None:
        """Somebody wants an instance; `number` is higher than any before."""
        self.demand.claimed(owner)
        if self.closed:
            self._refuse(number, refusals.ending())
        elif len(self.claims) >= _MOST_WAITING:
            self._refuse(number, refusals.too_many(self._name, len(self.claims), self.size.max))
        else:
            self.claims.append(Claim(number, owner, self._clock(), deadline))
        self._decide()

    def give_up(self, number: int) -> None:
        """A claim is not waited for any more."""
        self.claims = deque(one for one in self.claims if one.number != number)
        self._decide()

    def announce(self, owner: str, count: int, purpose: str = "") -> None:
        """So many claims of an owner are to come."""
        self.demand.announce(owner, count, purpose)
        self._decide()

    def created(self, instance: str, seconds: float) -> None:
        """An instance is there, after so many seconds."""
        self.breaker.succeeded()
        self.choice.created(seconds)
        self.created_count += 1
        self._arrived(instance, "creating")

    def cannot_compare(self, why: str) -> None:
        """Instances cannot be told from fresh ones: none is used again."""
        if self.choice.compares:
            self.choice.never_again()
            self.fault = why

    def creation_failed(self, instance: str, error: MegaflowError) -> None:
        """There is no instance of this id, nor will there be."""
        self.members.drop(instance)
        self.failed += 1
        self.fault = error.message
        opened = self.breaker.failed(error.message)
        if isinstance(error, _FINAL):
            self._refuse_all(lambda: type(error)(error.message))
        elif opened:
            self._refuse_all(self._stopped)
        self._decide()

    def release(self, instance: str, *, dirty: bool) -> None:
        """A session is done with an instance."""
        member = self.members.find(instance, "leased")
        if member is None:  # it died
            return
        spent = dirty or member.sessions > self.size.max_reuses
        if not spent and not self.closed and self.choice.reuse():
            self._move(member, "resetting")
            self._actions.append(Reset(instance))
        else:
            self._end(member)
        self._decide()

    def was_reset(self, instance: str, seconds: float, fault: str | None) -> None:
        """An instance is like a fresh one again; or it is not, and `fault` says how it differs."""
        self.choice.was_reset(seconds, restored=fault is None)
        member = self.members.find(instance, "resetting")
        if fault is None:
            self.reused += member is not None
            self._arrived(instance, "resetting")
            return
        self.quarantined += 1
        self.fault = fault
        if member is not None:
            self._end(member)
        self._decide()

    def died(self, instance: str, how: str) -> None:
        """An instance has ended by itself; what it left is to be destroyed, and whoever has it will notice."""
        member = self.members.find(instance, "ready", "leased", "resetting")
        if member is not None:
            self.fault = f"instance {instance} ended by itself: {how}"
            self._end(member)
            self._decide()

    def destroyed(self, instance: str) -> None:
        """Nothing of an instance is left."""
        self.members.drop(instance)
        self._decide()

    def tick(self) -> None:
        """Time has passed, or other pools have left room."""
        self._decide()

    def evict(self) -> bool:
        """End an instance that waits, since another pool needs its room; whether there was one.

        Decides nothing else: the room is the other's first.
        """
        member = self.members.oldest("ready")
        if member is not None:
            self._end(member)
        return member is not None

    def close(self) -> None:
        """End everything; who waits is refused."""
        self.closed = True
        self._refuse_all(refusals.ending)
        for where in ("ready", "leased", "resetting"):
            for member in self.members.at(where):
                self._end(member)
        for member in self.members.at("creating"):
            member.wanted = False

    # What comes of it.

    def take(self) -> Sequence[Action]:
        """What is to be done, in order; each is given once."""
        actions, self._actions = self._actions, []
        return actions

    def due(self) -> float:
        """When `tick` is to be called at the latest."""
        ends = [one.deadline for one in self.claims]
        ends += [self.breaker.due(), self.demand.due()]
        ends += [one.since + _SURPLUS_SECONDS for one in self.members.at("ready")]
        now = self._clock()
        return min((one for one in ends if one > now), default=math.inf)

    def _arrived(self, instance: str, where: str) -> None:
        member = self.members.by_id.get(instance)
        if member is not None and member.where == where:
            if member.wanted and not self.closed:
                self._move(member, "ready")
            else:
                self._end(member)
        self._decide()

    def _move(self, member: Member, where: Where) -> None:
        self.members.move(member, where, self._clock())

    def _end(self, member: Member) -> None:
        self._move(member, "ending")
        self._actions.append(Destroy(member.id))

    def _decide(self) -> None:
        self._expire()
        self._serve()
        if not self.closed:
            self._provide()
        short = self.short and not self.closed
        self._shortage.count += short - self._is_short
        self._is_short = short

    def _provide(self) -> None:
        if self.claims and self.breaker.is_open and not self._any_coming():
            self._refuse_all(self._stopped)
        self._create()
        self._shrink()
        self.lacks = self.is_lacking

    def _expire(self) -> None:
        now = self._clock()
        for claim in [one for one in self.claims if one.deadline <= now]:
            self.claims.remove(claim)
            seconds = now - claim.arrived
            self._refuse(claim.number, refusals.too_late(self._name, seconds, self))

    def _serve(self) -> None:
        while self.claims and (member := self.members.oldest("ready")) is not None:
            claim = self.claims.popleft()
            warm = member.since < claim.arrived
            self._move(member, "leased")
            member.sessions += 1
            self._actions.append(Serve(claim.number, member.id, warm))

    def _create(self) -> None:
        while self.is_lacking and self._allowed():
            if not self.short and self._shortage.count > self._is_short:
                return
            if not self._throttle.take():
                return
            instance = self._new_id()
            self.members.add(Member(instance, "creating", self._clock()))
            self._actions.append(Create(instance))

    def _allowed(self) -> bool:
        if self.alive >= self.size.max or self._room.is_full:
            return False
        there = len(self.members.by_id)
        if there + 1 > OVERCOMMIT * self.intended:
            return False
        return self.breaker.allows(self.members.count("creating"))

    def _shrink(self) -> None:
        now = self._clock()
        surplus = self.members.count("ready") - self.wanted
        for member in sorted(self.members.at("ready"), key=lambda one: one.since)[
            : max(0, surplus)
        ]:
            if member.since + _SURPLUS_SECONDS <= now:
                self._end(member)

    def _any_coming(self) -> bool:
        return self.members.count("creating", "leased", "resetting") > 0

    def _stopped(self) -> MegaflowError:
        return refusals.stopped(self._name, self.breaker)

    def _refuse_all(self, error: Callable[[], MegaflowError]) -> None:
        while self.claims:
            self._refuse(self.claims.popleft().number, error())

    def _refuse(self, claim: int, error: MegaflowError) -> None:
        self._actions.append(Refuse(claim, error))
