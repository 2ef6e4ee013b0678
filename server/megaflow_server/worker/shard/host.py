"""What a session does with a shard of a vector environment, however its sub-environments run."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.vector.utils import batch_space

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import failures, values
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol.slots import Slot
from megaflow.protocol.spaces import encode_space
from megaflow_server.worker.hosts import (
    ONE,
    Emit,
    Host,
    error_message,
    note_whose,
)
from megaflow_server.worker.shard.requests import (
    Resets,
    Steps,
    parse_call,
    parse_reset,
    parse_set_attr,
    parse_step,
)
from megaflow_server.worker.shard.schedule import Lost, Overdue, Part, Result, Schedule, Verb
from megaflow_server.worker.shard.stack import (
    stack_for,
    write_infos,
    write_observations,
    write_rows,
)
from megaflow_server.worker.shard.sub import Act, Ask, Row, Sub, SubLost, unfit
from megaflow_server.worker.shard.watch import Watch


@dataclass(frozen=True)
class ShardOptions:
    """What the sub-environments of a shard have in common.

    `first` is the index of the shard's first one in the whole. `observation_mode` is "same", "different" or
    "custom"; custom takes `single_observation_space`.
    """

    first: int
    observation_mode: str
    single_observation_space: gym.Space[Any] | None


class ShardHost(Host):
    """Sub-environments `first` … of a vector environment, and what is asked of them at the same time.

    `_lock` guards the schedule. `_telling` is held while parts are emitted, so that they come in order, and is
    never waited for under `_lock`.
    """

    # Whether a late sub-environment can be ended alone.
    _can_end = False

    def __init__(self, subs: Sequence[Sub], options: ShardOptions) -> None:
        self._subs = list(subs)
        self._first = options.first
        self.concurrency = len(subs)
        self._alike = options.observation_mode == "same"
        self._unfit = unfit(subs, options.observation_mode, options.single_observation_space)
        self._stack = stack_for(options.single_observation_space or subs[0].observation_space)
        self._action_space = batch_space(subs[0].action_space, len(subs))
        # The last ones, which a masked reset gives again; like gymnasium's they are None at first.
        self._observations: list[Any] = [None] * len(subs)
        self._schedule = Schedule(time.monotonic)
        self._emits: dict[int, Emit] = {}
        # What to say of those that were ended, and have not noticed yet.
        self._ended: dict[int, Lost] = {}
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._tell_at: float | None = None
        self._watch = Watch(self._due, self._look, time.monotonic)

    def describe(self) -> pb.EnvironmentDescription:
        # All spaces where they may differ; else the one that they share.
        told = self._subs if self._unfit or not self._alike else self._subs[:1]
        description = self._subs[0].describe()
        description.observation_spaces.extend(encode_space(sub.observation_space) for sub in told)
        description.action_spaces.extend(encode_space(sub.action_space) for sub in told)
        return description

    # ------------------------------------------------------------------ requests

    def apply(self, request: pb.Request, emit: Emit) -> None:
        verb = request.WhichOneof("verb")
        if verb == "close":
            self.close()
            emit(pb.Reply(last=True))
            return
        if self._unfit is not None:
            raise self._unfit
        if verb == "step":
            if request.step.end_late and not self._can_end:
                raise InvalidArgument(
                    "step.end_late: only a sub-environment with a process of its own can be ended alone; "
                    "use parallel='process'"
                )
            self._step(parse_step(request.step, self._action_space, len(self._subs)), request, emit)
        elif verb == "reset":
            self._reset(parse_reset(request.reset, len(self._subs)), request, emit)
        elif verb == "call" or verb == "set_attr":
            with self._lock:
                self._schedule.check_idle(verb)
                self._schedule.check_there()
            answer = self._called(request.call) if verb == "call" else self._set(request.set_attr)
            emit(pb.Reply(last=True, value=answer))
        elif verb == "snapshot" or verb == "restore":
            raise FailedPrecondition(ONE)
        else:
            raise InvalidArgument("request.verb is empty, or one that this server does not know")

    def _called(self, call: pb.Call) -> bytes:
        path = "render()" if call.name == "render" else call.name
        return values.encode(self._asked(parse_call(call, len(self._subs))), path=path)

    def _set(self, request: pb.SetAttr) -> bytes:
        self._asked(parse_set_attr(request, len(self._subs)))
        return values.encode(True)

    @abstractmethod
    def _step(self, steps: Steps, request: pb.Request, emit: Emit) -> None: ...

    @abstractmethod
    def _reset(self, resets: Resets, request: pb.Request, emit: Emit) -> None: ...

    @abstractmethod
    def _asked(self, asks: Mapping[int, Ask]) -> list[Any]:
        """What asking these sub-environments gives, in this order."""

    # ------------------------------------------------------------------ what is under way

    def _begin(self, asked: Steps | Resets, request: pb.Request, emit: Emit) -> None:
        """Takes a request on. Raises what Schedule.begin raises."""
        verb: Verb = "reset" if isinstance(asked, Resets) else "step"
        with self._lock:
            if verb == "reset" and not asked.in_parts:
                self._schedule.check_idle(verb)  # its reply has a row of every sub-environment
            self._schedule.begin(
                request.sequence,
                verb,
                asked.indices,
                in_parts=asked.in_parts,
                timeout_s=request.step.timeout_s,
                end_late=request.step.end_late,
            )
            self._emits[request.sequence] = emit

    def _perform(self, index: int, act: Act) -> Result:
        """Has a sub-environment do what it is asked for, and takes down what comes of it."""
        with self._lock:
            late_at = self._schedule.started(index)
        if late_at is not None:
            self._watch.nudge(late_at)
        try:
            result: Result = tuple(act(self._subs[index]))
        except SubLost as error:
            result = Lost(failures.to_message(error))
        except BaseException as error:  # an environment's own, sys.exit() included
            if _interrupts(error):
                raise
            note_whose(error, self._first + index)
            result = error_message(error)
        with self._lock:
            # Where it was ended just now, no result counts that it may have given after all.
            result = self._ended.pop(index, result)
            self._schedule.finish(index, result)
        return result

    def _tell_soon(self, at: float) -> None:
        """Has what has finished be told then, whatever the calling thread is at by that time."""
        if self._tell_at is None:
            self._tell_at = at
            self._watch.nudge(at)

    def _due(self) -> float | None:
        with self._lock:
            due = self._schedule.due()
        soon = self._tell_at
        return due if soon is None else soon if due is None else min(due, soon)

    def _look(self) -> None:
        """Tells of those that have become late, and of what waits to be told."""
        soon = self._tell_at
        if soon is not None and soon <= time.monotonic():
            self._tell()
        with self._telling:
            with self._lock:
                late = self._schedule.overdue()
                for one in late:
                    if one.end:
                        self._ended[one.index] = self._end(one)
            for one in late:
                if not one.end:
                    self._emits[one.sequence](pb.Reply(indices=[one.index], late=pb.Late()))

    def _end(self, late: Overdue) -> Lost:
        """Ends a sub-environment that is late; `_lock` is held. Only what `_can_end` has this done."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what has come of it

    def _tell(self) -> None:
        """Emits what has finished."""
        with self._telling:
            self._tell_at = None
            with self._lock:
                parts = self._schedule.take()
            for part in parts:
                emit = self._emits.pop(part.sequence) if part.last else self._emits[part.sequence]
                replies = list(self._replies(part, emit.slot))
                replies[-1].last = part.last
                for reply in replies:
                    emit(reply)

    def _replies(self, part: Part, slot: Slot | None) -> Iterator[pb.Reply]:
        """A part as the wire has it; where rows cannot go together, each by itself."""
        reply = pb.Reply(indices=part.indices)
        if isinstance(part.body, Lost):
            reply.lost.CopyFrom(part.body.error)
        elif isinstance(part.body, pb.Error):
            reply.error.CopyFrom(part.body)
        else:
            try:
                self._write(reply.transition, part, part.body, slot)
            except Exception as error:  # what an environment gave, or its `__array__` raised
                if len(part.indices) > 1:
                    for row in part.body:
                        yield from self._replies(part.of(row), slot)
                    return
                reply.error.CopyFrom(failures.to_message(error))
        yield reply

    def _write(
        self,
        into: pb.Transition,
        part: Part,
        body: Sequence[tuple[int, Row]],
        slot: Slot | None,
    ) -> None:
        indices, rows = zip(*body, strict=True)
        for index, row in body:
            self._observations[index] = row[0]
        if part.verb == "step":
            write_rows(into, self._stack, indices, rows, self._first, slot)
            return
        told = [row[0] for row in rows] if part.indices else self._observations
        write_observations(into, self._stack, told, slot)
        write_infos(into, indices, [row[4] for row in rows], self._first)

    def _close_with(self, closes: Sequence[Callable[[], None]]) -> None:
        """Calls all of them, and raises what the first that failed raised."""
        self._watch.close()
        errors: list[Exception] = []
        for close in closes:
            try:
                close()
            except Exception as error:  # an environment's own
                errors.append(error)
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"Closing another one raised {type(other).__name__}: {other}")
            raise errors[0]


def _interrupts(error: BaseException) -> bool:
    """Whether it is a Ctrl-C at environments in the caller's own process: they run on the main thread there alone."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
    )
