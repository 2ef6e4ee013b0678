"""What a pool decides, on a clock of the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from megaflow.errors import (
    DeadlineExceeded,
    MegaflowError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from megaflow_server.pool.actions import Action, Create, Destroy, Refuse, Reset, Serve
from megaflow_server.pool.breaker import OPEN_SECONDS
from megaflow_server.pool.demand import ANNOUNCED_SECONDS, KEPT_SECONDS, Demand
from megaflow_server.pool.shared import Room, Shortage, Throttle
from megaflow_server.pool.state import OVERCOMMIT, PoolState
from megaflow_server.templates import Mode, PoolSize

NO_ROOM = Unavailable("the engine is busy")


class Rig:
    """A pool's state, what it wants done, and a clock."""

    def __init__(self, size: PoolSize, mode: Mode = "persistent", creations: int = 100) -> None:
        self.now = 1000.0
        self.throttle = Throttle(creations)
        self.room = Room(1000)
        self.shortage = Shortage()
        self._ids = (f"i{number}" for number in itertools.count(1))
        self.state = PoolState(
            "template t",
            size,
            mode,
            new_id=lambda: next(self._ids),
            throttle=self.throttle,
            room=self.room,
            shortage=self.shortage,
            clock=lambda: self.now,
        )

    def take(self) -> Sequence[Action]:
        return self.state.take()

    def served(self) -> list[tuple[int, str]]:
        return [(one.claim, one.id) for one in self.take() if isinstance(one, Serve)]

    def create(self, seconds: float = 0.5) -> list[str]:
        """Have every creation that is wanted succeed; the ids."""
        made = []
        while wanted := [one.id for one in self.take_of(Create)]:
            for name in wanted:
                self.throttle.give()
                self.state.created(name, seconds)
            made += wanted
        return made

    def fail(self, error: MegaflowError = NO_ROOM) -> int:
        """Have every creation that is wanted now fail; how many."""
        wanted = self.take_of(Create)
        for one in wanted:
            self.throttle.give()
            self.state.creation_failed(one.id, error)
        return len(wanted)

    def take_of(self, kind: type[Create]) -> list[Create]:
        """The wanted creations; what else is wanted stays wanted."""
        actions = list(self.state.take())
        self.state._actions[:0] = [one for one in actions if not isinstance(one, kind)]
        return [one for one in actions if isinstance(one, kind)]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.state.tick()


def test_claims_are_served_in_their_order_as_instances_come() -> None:
    rig = Rig(PoolSize(max=8), creations=2)
    for number in range(40):
        rig.state.claim(number, "me")
    order: list[int] = []
    for _ in range(40):
        rig.create()
        for claim, name in rig.served():
            order.append(claim)
            rig.state.release(name, dirty=True)
            rig.state.destroyed(name)
    assert order == list(range(40))


def test_creation_is_throttled_and_never_passes_the_maximum() -> None:
    rig = Rig(PoolSize(max=8), creations=3)
    for number in range(40):
        rig.state.claim(number, "me")
    assert len(rig.take_of(Create)) == 3
    rig.throttle.most = 100
    rig.state.tick()
    assert len(rig.take_of(Create)) == 5


def test_a_minimum_waits_always_and_a_target_once_somebody_asks() -> None:
    rig = Rig(PoolSize(min=1, target=4, max=8))
    rig.state.tick()
    assert len(rig.create()) == 1
    rig.state.claim(1, "me")
    assert len(rig.create()) == 4
    assert rig.state.members.count("ready") == 4
    rig.pass_time(KEPT_SECONDS + 31)
    assert rig.state.members.count("ready") == 1


def test_a_claim_of_what_waits_is_warm_and_served_at_once() -> None:
    rig = Rig(PoolSize(target=1, max=8))
    rig.state.claim(1, "me")
    rig.create()
    assert [one.warm for one in rig.take() if isinstance(one, Serve)] == [False]
    rig.pass_time(1)
    rig.state.claim(2, "me")
    assert [one.warm for one in rig.take() if isinstance(one, Serve)] == [True]


def test_what_was_announced_waits_until_it_is_claimed_or_too_old() -> None:
    rig = Rig(PoolSize(max=8))
    rig.state.announce("trainer", 5)
    assert len(rig.create()) == 5
    for number in range(5):
        rig.state.claim(number, "trainer")
    assert len(rig.served()) == 5
    assert rig.create() == []
    rig.state.announce("trainer", 2)
    rig.state.announce("trainer", 3)  # in place of the two
    assert rig.state.wanted == 3
    rig.state.announce("other", 100)
    assert rig.state.wanted == 3  # beside the five that are leased
    rig.pass_time(ANNOUNCED_SECONDS + 1)
    assert rig.state.wanted == 0


def test_announcements_for_different_purposes_add_up() -> None:
    demand = Demand(PoolSize(max=8), lambda: 0.0)
    demand.announce("trainer", 2, "one task")
    demand.announce("trainer", 3, "another")
    demand.announce("trainer", 1, "one task")  # in place of the two
    assert demand.wanted(None) == 4
    for left in (3, 2, 1):
        demand.claimed("somebody else")
        demand.claimed("trainer")
        assert demand.wanted(None) == left
    demand.announce("trainer", 0, "one task")
    demand.announce("trainer", 0, "another")
    assert demand.wanted(None) == 0


def test_more_wait_where_claims_come_faster_than_instances() -> None:
    rig = Rig(PoolSize(max=50))
    for number in range(30):
        rig.state.claim(number, "me")
        rig.create(seconds=3.0)
        for _, name in rig.served():
            rig.state.release(name, dirty=True)
            rig.state.destroyed(name)
        rig.pass_time(1.0)
    # One a second, each of which takes three to create.
    assert 3 <= rig.state.wanted <= 6
    rig.pass_time(60)
    assert rig.state.wanted == 0


def test_more_than_half_of_five_failures_stop_creation_for_30_seconds_and_say_why() -> None:
    rig = Rig(PoolSize(max=50))
    for number in range(5):
        rig.state.claim(number, "me")
    assert rig.fail() == 5
    refused = [one for one in rig.take() if isinstance(one, Refuse)]
    assert len(refused) == 5
    for one in refused:
        assert isinstance(one.error, Unavailable)
        assert "creation has stopped for 30 s" in one.error.message
        assert "the engine is busy" in one.error.message
        assert one.error.retry_after == OPEN_SECONDS
    rig.state.claim(6, "me")  # at once, and with the same words
    (refusal,) = rig.take()
    assert isinstance(refusal, Refuse)
    assert rig.state.due() <= rig.now + OPEN_SECONDS
    rig.pass_time(OPEN_SECONDS + 1)
    for number in range(7, 10):
        rig.state.claim(number, "me")
    assert len(rig.take_of(Create)) == 1  # one alone to find out


def test_a_few_failures_among_successes_are_tried_again() -> None:
    rig = Rig(PoolSize(max=50))
    for number in range(10):
        rig.state.claim(number, "me")
    first, second, *others = rig.take_of(Create)
    for one in others:
        rig.state.created(one.id, 0.5)
    for one in (first, second):
        rig.state.creation_failed(one.id, NO_ROOM)
    assert len(rig.served()) == 8
    assert rig.state.due() <= rig.now + 1
    rig.pass_time(1)
    rig.create()
    assert len(rig.served()) == 2


def test_what_trying_again_does_not_help_against_is_told_at_once() -> None:
    rig = Rig(PoolSize(max=50))
    rig.state.claim(1, "me")
    rig.fail(NotFound("image='a': no registry has it"))
    (refusal,) = rig.take()
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, NotFound)


def test_creation_stops_at_one_and_a_half_times_what_is_intended() -> None:
    rig = Rig(PoolSize(max=4), mode="ephemeral")
    leased = []
    for number in range(4):
        rig.state.claim(number, "me")
        rig.create()
        leased += [name for _, name in rig.served()]
    # What is released cannot be destroyed: the engine hangs.
    for number in range(4, 20):
        rig.state.claim(number, "me")
    for _ in range(10):
        for name in leased:
            rig.state.release(name, dirty=True)
        rig.create()
        leased = [name for _, name in rig.served()]
    assert len(rig.state.members.by_id) == OVERCOMMIT * 4


def test_a_claim_that_is_served_too_late_says_what_it_waited_for() -> None:
    rig = Rig(PoolSize(max=1))
    rig.state.claim(1, "me")
    rig.create()
    rig.take()
    rig.state.claim(2, "me", deadline=rig.now + 5)
    assert rig.state.due() == rig.now + 5
    rig.pass_time(5)
    (refusal,) = rig.take()
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, DeadlineExceeded)
    assert "no instance came in 5.0 s; of at most 1 there are 1 leased" in refusal.error.message


def test_a_queue_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megaflow_server.pool.state._MOST_WAITING", 2)
    rig = Rig(PoolSize(max=1), creations=0)
    for number in range(3):
        rig.state.claim(number, "me")
    (refusal,) = rig.take()
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, ResourceExhausted)
    assert refusal.error.retry_after


def test_an_instance_serves_so_many_sessions_and_is_destroyed() -> None:
    rig = Rig(PoolSize(max=1, max_reuses=3))
    for number in range(5):
        rig.state.claim(number, "me")
    rig.create()
    for _ in range(3):
        ((_, name),) = rig.served()
        rig.state.release(name, dirty=False)
        assert rig.take() == [Reset(name)]
        rig.state.was_reset(name, 0.1, None)
    ((_, name),) = rig.served()
    assert name == "i1"
    rig.state.release(name, dirty=False)
    assert Destroy("i1") in rig.take()


def test_what_was_not_restored_is_destroyed_and_its_fault_told() -> None:
    rig = Rig(PoolSize(max=2))
    rig.state.claim(1, "me")
    (name,) = rig.create()
    rig.take()
    rig.state.release(name, dirty=False)
    rig.take()
    rig.state.was_reset(name, 0.1, "files differ: /etc/passwd")
    assert rig.take() == [Destroy(name)]
    assert rig.state.quarantined == 1
    assert rig.state.fault == "files differ: /etc/passwd"


@pytest.mark.parametrize("where", ["ready", "leased", "resetting"])
def test_what_dies_is_destroyed_and_replaced(where: str) -> None:
    rig = Rig(PoolSize(min=1, max=4))
    rig.state.tick()
    (name,) = rig.create()
    if where != "ready":
        rig.state.claim(1, "me")
        rig.create()
    if where == "resetting":
        rig.state.release(name, dirty=False)
    rig.take()
    rig.state.died(name, "signal 9 (SIGKILL)")
    actions = rig.take()
    assert Destroy(name) in actions
    rig.state.destroyed(name)
    rig.create()
    assert rig.state.members.count("ready") == 1
    rig.state.release(name, dirty=False)  # too late to mean anything
    assert rig.take() == []


def test_an_ephemeral_instance_has_one_session() -> None:
    rig = Rig(PoolSize(max=4), mode="ephemeral")
    rig.state.claim(1, "me")
    (name,) = rig.create()
    rig.take()
    rig.state.release(name, dirty=False)
    assert rig.take() == [Destroy(name)]


def sessions(rig: Rig, count: int, reset: float, fault: str | None = None) -> list[bool]:
    """Whether each instance was reset at its session's end; creating takes a second."""
    numbers = itertools.count(1)
    was_reset = []
    for _ in range(count):
        rig.pass_time(5)
        rig.state.claim(next(numbers), "me")
        rig.create(seconds=1.0)
        ((_, name),) = rig.served()
        rig.state.release(name, dirty=False)
        was_reset.append(Reset(name) in rig.state._actions)
        if was_reset[-1]:
            rig.state.was_reset(name, reset, fault)
            if fault is not None:
                rig.state.destroyed(name)
        else:
            rig.state.destroyed(name)
    return was_reset


def test_auto_uses_again_what_is_reset_faster_than_created() -> None:
    assert all(sessions(Rig(PoolSize(max=1), mode="auto"), 15, reset=0.2))


def test_auto_throws_away_what_is_reset_more_slowly_and_tries_now_and_then() -> None:
    decided = sessions(Rig(PoolSize(max=1), mode="auto"), 45, reset=3.0)
    assert decided[:5] == [True, False, False, False, False]
    assert decided.count(True) == 3


def test_auto_throws_away_what_a_reset_does_not_restore() -> None:
    decided = sessions(Rig(PoolSize(max=1), mode="auto"), 15, reset=0.5, fault="files differ")
    assert decided.count(True) <= 4


def test_an_instance_that_nobody_needs_makes_room() -> None:
    rig = Rig(PoolSize(min=2, max=4))
    rig.state.tick()
    first, _ = rig.create()
    assert rig.state.evict()
    assert Destroy(first) in rig.take()
    assert not Rig(PoolSize(max=4)).state.evict()


def test_nothing_is_created_that_nobody_waits_for_while_others_wait() -> None:
    rig = Rig(PoolSize(target=3, max=4))
    rig.shortage.count += 1
    rig.state.claim(1, "me")
    assert len(rig.take_of(Create)) == 1
    rig.shortage.count -= 1
    rig.state.tick()
    assert len(rig.take_of(Create)) == 3


def test_a_pool_without_room_says_that_it_starves() -> None:
    rig = Rig(PoolSize(max=4))
    rig.room.most = 0
    rig.state.claim(1, "me")
    assert rig.take() == []
    assert rig.state.starved
    rig.room.most = 1
    rig.state.tick()
    assert len(rig.take_of(Create)) == 1
    assert not rig.state.starved


def test_the_end_refuses_who_waits_and_destroys_what_is_there_or_comes() -> None:
    rig = Rig(PoolSize(min=1, max=4), creations=2)
    rig.state.tick()
    (ready,) = rig.create()
    rig.state.claim(1, "me")
    rig.state.claim(2, "me")
    (coming, *_) = [one.id for one in rig.take_of(Create)]
    rig.take()
    rig.state.close()
    assert {type(one) for one in rig.take()} == {Destroy, Refuse}
    rig.state.created(coming, 1.0)
    assert Destroy(coming) in rig.take()
    rig.state.destroyed(coming)
    rig.state.destroyed(ready)
    rig.state.claim(3, "me")
    (refusal,) = rig.take()
    assert isinstance(refusal, Refuse)
    assert not [one for one in rig.take() if isinstance(one, Create)]


class PoolMachine(RuleBasedStateMachine):
    """Anything that can happen, in any order: who is served, in which order, and with what."""

    @initialize(
        size=st.builds(
            lambda low, target, top, reuses: PoolSize(
                min(low, top), min(target, top), top, reuses
            ),
            st.integers(0, 3), st.integers(0, 4), st.integers(1, 6), st.integers(0, 3),
        ),
        mode=st.sampled_from(["ephemeral", "persistent", "auto"]),
        creations=st.integers(1, 4),
    )  # fmt: skip
    def begin(self, size: PoolSize, mode: Mode, creations: int) -> None:
        self.rig = Rig(size, mode, creations)
        self.size = size
        self.numbers = itertools.count(1)
        self.waiting: list[int] = []
        self.where: dict[str, str] = {}
        self.uses: dict[str, int] = {}
        self.last_served = 0
        self.perform()

    def perform(self) -> None:
        """Check each thing that is wanted, and take it down."""
        for action in self.rig.take():
            match action:
                case Create(id=name):
                    assert name not in self.where
                    self.where[name] = "creating"
                    self.uses[name] = 0
                    alive = [one for one in self.where.values() if one != "ending"]
                    assert len(alive) <= self.size.max
                case Serve(claim=claim, id=name):
                    assert self.where[name] == "ready"
                    assert claim in self.waiting
                    assert claim == min(self.waiting)  # nobody is passed over
                    self.waiting.remove(claim)
                    self.where[name] = "leased"
                    self.uses[name] += 1
                    assert self.uses[name] <= self.size.max_reuses + 1
                case Reset(id=name):
                    assert self.where[name] == "leased"
                    self.where[name] = "resetting"
                case Destroy(id=name):
                    assert self.where[name] in ("ready", "leased", "resetting", "creating")
                    self.where[name] = "ending"
                case Refuse(claim=claim):
                    self.waiting.remove(claim)
        assert len(self.where) <= max(
            self.high_water, OVERCOMMIT * max(self.size.max, self.rig.state.intended)
        )
        self.high_water = len(self.where)

    high_water = 0

    def some(self, where: str, chance: int) -> str | None:
        found = [name for name, at in self.where.items() if at == where]
        return found[chance % len(found)] if found else None

    @rule(patience=st.none() | st.floats(0.1, 100))
    def claim(self, patience: float | None) -> None:
        number = next(self.numbers)
        self.waiting.append(number)
        deadline = float("inf") if patience is None else self.rig.now + patience
        self.rig.state.claim(number, "me", deadline)
        self.perform()

    @precondition(lambda self: self.waiting)
    @rule(chance=st.integers(0, 9))
    def give_up(self, chance: int) -> None:
        number = self.waiting.pop(chance % len(self.waiting))
        self.rig.state.give_up(number)
        self.perform()

    @rule(chance=st.integers(0, 9), works=st.booleans())
    def creation_ends(self, chance: int, works: bool) -> None:
        name = self.some("creating", chance)
        if name is None:
            return
        self.rig.throttle.give()
        if works:
            self.where[name] = "ready"
            self.rig.state.created(name, 0.5)
        else:
            del self.where[name]
            self.rig.state.creation_failed(name, NO_ROOM)
        self.perform()

    @rule(chance=st.integers(0, 9), dirty=st.booleans())
    def release(self, chance: int, dirty: bool) -> None:
        name = self.some("leased", chance)
        if name is None:
            return
        self.rig.state.release(name, dirty=dirty)
        self.perform()
        assert not dirty or self.where[name] == "ending"

    @rule(chance=st.integers(0, 9), fault=st.sampled_from([None, None, "files differ"]))
    def reset_ends(self, chance: int, fault: str | None) -> None:
        name = self.some("resetting", chance)
        if name is None:
            return
        if fault is None:
            self.where[name] = "ready"
        self.rig.state.was_reset(name, 0.2, fault)
        self.perform()
        assert fault is None or self.where[name] == "ending"

    @rule(chance=st.integers(0, 9), where=st.sampled_from(["ready", "leased", "resetting"]))
    def die(self, chance: int, where: str) -> None:
        name = self.some(where, chance)
        if name is not None:
            self.rig.state.died(name, "signal 9")
            self.perform()
            assert self.where[name] == "ending"

    @rule(chance=st.integers(0, 9))
    def destruction_ends(self, chance: int) -> None:
        name = self.some("ending", chance)
        if name is not None:
            del self.where[name]
            self.rig.state.destroyed(name)
            self.perform()

    @rule(count=st.integers(0, 8))
    def announce(self, count: int) -> None:
        self.rig.state.announce("me", count)
        self.perform()

    @rule(seconds=st.sampled_from([0.2, 3.0, 31.0, 400.0]))
    def pass_time(self, seconds: float) -> None:
        self.rig.pass_time(seconds)
        self.perform()

    @invariant()
    def the_counts_agree(self) -> None:
        if not hasattr(self, "rig"):
            return
        members = self.rig.state.members
        for where in ("creating", "ready", "leased", "resetting", "ending"):
            assert members.count(where) == list(self.where.values()).count(where)
        assert self.rig.room.taken == sum(one != "ending" for one in self.where.values())
        assert self.rig.shortage.count == self.rig.state.short
        assert self.rig.throttle.count == members.count("creating")
        assert [one.number for one in self.rig.state.claims] == sorted(self.waiting)

    @invariant()
    def nobody_waits_beside_what_is_ready(self) -> None:
        if hasattr(self, "rig"):
            assert not (self.waiting and "ready" in self.where.values())

    def teardown(self) -> None:
        """Where nothing goes wrong any more, everybody is served who still waits."""
        if not hasattr(self, "rig"):
            return
        for _ in range(10 * (len(self.waiting) + len(self.where) + 10)):
            if not self.waiting:
                return
            self.pass_time(31.0)
            while (name := self.some("creating", 0)) is not None:
                self.rig.throttle.give()
                self.where[name] = "ready"
                self.rig.state.created(name, 0.5)
                self.perform()
            for name in [one for one, at in self.where.items() if at == "leased"]:
                self.rig.state.release(name, dirty=False)
                self.perform()
            for name in [one for one, at in self.where.items() if at == "resetting"]:
                self.where[name] = "ready"
                self.rig.state.was_reset(name, 0.2, None)
                self.perform()
            for name in [one for one, at in self.where.items() if at == "ending"]:
                del self.where[name]
                self.rig.state.destroyed(name)
                self.perform()
        assert not self.waiting


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestPool = PoolMachine.TestCase
