"""What a remote environment does, for both of its faces: `RemoteEnv` and `AsyncRemoteEnv`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium as gym
from gymnasium import logger

from megaflow.connection import Connection
from megaflow.deadlines import Deadline, StepLimit
from megaflow.env_options import EnvDescription, EnvOptions
from megaflow.errors import InvalidArgument, MegaflowError, SessionLost
from megaflow.keeping import KEEP_FOR, Episode, kept_seconds
from megaflow.overdue import Overdue
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.protocol.slots import Memory
from megaflow.registration import remote_spec
from megaflow.session import NotBegun, Session
from megaflow.shards import Shard, decoded, lend
from megaflow.transport.io import INTERRUPTS
from megaflow.transport.stream import ReplyTimeout

# The option of a reset that goes on from a snapshot, by its id.
SNAPSHOT = "snapshot"


class EnvCore:
    """One environment behind a connection, which it closes when it is closed; `open` gives it."""

    def __init__(
        self, name: str, connection: Connection, session: Session, options: EnvOptions
    ) -> None:
        self._name = name
        self._connection = connection
        self._session: Session | None = session
        self._options = options
        self._deadlines = options.deadlines
        # The last observation, encoded, and the slot of its arrays.
        self._last: tuple[bytes, Memory | None] = (b"", None)
        self._warned = False
        self._episode = Episode()
        # The session whose sandbox is kept should it be lost.
        self._guarded = ""
        self.description = EnvDescription.of(session.shards[0].info.environment)
        self.spec = remote_spec(
            options.as_kwargs(), connection.address, remote=self.description.remote_spec
        )

    @classmethod
    async def open(cls, name: str, connection: Connection, **given: Any) -> EnvCore:
        """Opens the session; the connection is closed where that fails.

        Args:
            name: the class that the user sees.
            given: what `EnvOptions.checked` takes.
        """
        try:
            options = EnvOptions.checked(**given)
        except BaseException:
            await connection.close()
            raise
        return await cls._begin(name, connection, options)

    @classmethod
    async def _begin(cls, name: str, connection: Connection, options: EnvOptions) -> EnvCore:
        session: Session | None = None
        try:
            spec, deadlines = options.spec(connection), options.deadlines
            limit = StepLimit(deadlines.step, deadlines.on_step, together=True, apart=False)
            session = await Session.open(connection, spec, deadlines, limit)
            core = cls(name, connection, session, options)
            await core._guard()
            return core
        except BaseException:
            if session is not None:
                await session.close(wait=False)
            await connection.close()
            raise

    async def another(self) -> EnvCore:
        """An environment like this one, in a session of its own."""
        self.session  # noqa: B018  raises after `close`
        return await self._begin(self._name, self._connection.share(), self._options)

    @property
    def address(self) -> str | None:
        """Of the server that it is on; None for the embedded one."""
        return self._connection.address

    @property
    def closed(self) -> bool:
        return self._session is None

    @property
    def session(self) -> Session:
        """The session. Raises ClosedEnvironmentError after `close`."""
        if self._session is None:
            raise gym.error.ClosedEnvironmentError(
                f"Trying to operate on `{self._name}`, after a call to `close()`."
            )
        return self._session

    @property
    def _shard(self) -> Shard:
        return self.session.shards[0]

    async def reset(
        self, seed: int | None, options: dict[str, Any] | None
    ) -> tuple[Any, dict[str, Any]]:
        session, shard = self.session, self._shard
        if options is not None and SNAPSHOT in options:
            return await self.restore(_only_snapshot(seed, options))
        verb = pb.Reset(
            seed=values.encode(seed) if seed is not None else b"",
            options=values.encode(options, path="options") if options is not None else b"",
        )
        self._episode = Episode()
        with self._watched(), self._within("reset") as end:
            if shard.loss is not None:
                await session.reopen(shard, end)
            try:
                memory = lend(shard, verb)
                reply = await session.ask(shard, verb, end)
            except SessionLost:
                # Once more: the worker may have died of something else, or between two episodes.
                await session.reopen(shard, end)
                memory = lend(shard, verb)
                reply = await session.ask(shard, verb, end)
            await self._guard()
        shard.unreset = False
        transition = reply.transition
        self._last = transition.observation, memory
        return self._observation(), decoded(transition.info, "info")

    async def snapshot(self, unused: float = 0.0) -> str:
        """Keeps what the environment is at the moment; the id that `restore` takes.

        Args:
            unused: seconds for which nobody has to use it before it goes; 0: the server's own.

        Raises FailedPrecondition where it or its sandbox cannot be kept.
        """
        session, shard = self.session, self._shard
        if not self._last[0]:
            raise gym.error.ResetNeeded(
                "there is nothing to make a snapshot of: call reset() first"
            )
        observation = values.encode(self._observation(), path="observation")
        state = (await session.ask(shard, pb.Snapshot())).value
        return await self._connection.keep_snapshot(
            pb.KeepSnapshotRequest(
                session_id=session.id,
                shard_id=shard.info.shard_id,
                state=state,
                observation=observation,
                seconds=unused,
            )
        )

    async def restore(self, snapshot: str) -> tuple[Any, dict[str, Any]]:
        """Goes on from a snapshot, as a reset does from the beginning; made anew first where it was lost."""
        session, shard = self.session, self._shard
        with self._within("reset") as end:
            if shard.loss is not None:
                await session.reopen(shard, end)
            await session.make_room(shard, pb.Restore(), end)
            kept = await self._connection.restore_snapshot(
                pb.RestoreSnapshotRequest(
                    session_id=session.id, shard_id=shard.info.shard_id, snapshot_id=snapshot
                ),
                end,
            )
            await session.ask(shard, pb.Restore(state=kept.state), end)
        shard.unreset = False
        self._episode = Episode()
        self._last = kept.observation, None
        return self._observation(), {SNAPSHOT: snapshot}

    async def drop(self, snapshot: str) -> None:
        """Has a snapshot kept no longer."""
        await self._connection.drop_snapshot(snapshot)

    def _observation(self) -> Any:
        """The last observation, in arrays of the caller's own."""
        data, memory = self._last
        return decoded(data, "observation", memory)

    async def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        verb = pb.Step(action=values.encode(action, path="action"))
        memory = lend(self._shard, verb)
        deadline = self._deadlines.begin("step")
        with self._watched():
            if deadline is None:
                reply = await self.session.ask(self._shard, verb)
            else:
                try:
                    reply = await self._step_within(verb, deadline)
                except ReplyTimeout as error:
                    if self._deadlines.on_step == "truncate":
                        return await self._truncated()
                    raise deadline.exceeded(begun=not isinstance(error, NotBegun)) from None
        transition = reply.transition
        self._last = transition.observation, memory
        reward, info = decoded(transition.reward, "reward"), decoded(transition.info, "info")
        terminated = decoded(transition.terminated, "terminated")
        truncated = decoded(transition.truncated, "truncated")
        if self._options.keeping.which != "none":
            self._episode.step(reward, info, over=bool(terminated or truncated))
        return self._observation(), reward, terminated, truncated, info

    async def _step_within(self, verb: pb.Step, deadline: Deadline) -> pb.Reply:
        """The reply to a step, or ReplyTimeout where it is not waited for any longer."""
        session, shard = self.session, self._shard
        if self._deadlines.on_step != "wait":
            return await session.ask(shard, verb, deadline.end)
        sequence = await session.send(shard, verb)
        try:
            try:
                return await session.wait(shard, sequence, deadline.end)
            except ReplyTimeout:
                self._warn(deadline)
                return await session.wait(shard, sequence)
        except INTERRUPTS:
            shard.overdue.append(Overdue(sequence, verb))
            raise

    def _warn(self, deadline: Deadline) -> None:
        if not self._warned:
            logger.warn(
                f"a step has not finished within step_timeout={deadline.seconds:g} s; it is waited for "
                "(on_step_timeout='wait'), and this is said once"
            )
        self._warned = True

    async def _truncated(self) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """What a step gives that is not waited for any longer; the next reset makes the environment anew."""
        self._episode.failed = True
        await self.session.give_up(self._shard, ())
        info = {"lost": True, "step_timeout": True}
        return self._observation(), 0.0, False, True, info

    async def keep_sandbox(self, seconds: float = KEEP_FOR, *, lost_only: bool = False) -> None:
        """Has the sandbox outlive the session by so many seconds, always or where it is lost."""
        request = pb.KeepSandboxesRequest(
            session_id=self.session.id,
            seconds=kept_seconds("seconds", seconds),
            lost_only=lost_only,
        )
        await self._connection.keep_sandboxes(request)

    async def _guard(self) -> None:
        """What is lost is kept, in each session that the environment comes to have."""
        keeping, session_id = self._options.keeping, self.session.id
        if keeping.which != "none" and self._guarded != session_id:
            await self.keep_sandbox(keeping.seconds, lost_only=True)
            self._guarded = session_id

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Takes down that the episode failed where the environment raises."""
        try:
            yield
        except Exception:
            self._episode.failed = True
            raise

    @contextmanager
    def _within(self, name: str) -> Iterator[float | None]:
        """The moment by which a reset or step has to be done, whose passing is told by its name."""
        deadline = self._deadlines.begin(name)
        try:
            yield None if deadline is None else deadline.end
        except ReplyTimeout as error:
            assert deadline is not None
            raise deadline.exceeded(begun=not isinstance(error, NotBegun)) from None

    async def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        verb = pb.Call(name=name)
        if args:
            verb.args = values.encode(args, path="args")
        if kwargs:
            verb.kwargs = values.encode(kwargs, path="kwargs")
        return decoded((await self.session.ask(self._shard, verb)).value, name)

    async def lookup(self, name: str) -> tuple[bool, Any]:
        """Whether an attribute is a method, and its value where it is none."""
        reply = await self.session.ask(self._shard, pb.Call(name=name, lookup=True))
        is_method, value = decoded(reply.value, name)
        return is_method, value

    async def set_attr(self, name: str, value: Any, *, force: bool) -> Any:
        verb = pb.SetAttr(name=name, values=values.encode([value], path=name), force=force)
        return decoded((await self.session.ask(self._shard, verb)).value, name)

    async def close(self, *, wait: bool = True) -> None:
        """Closes session and connection. Idempotent."""
        keeping = self._options.keeping
        if self._session is not None and keeping.wants(self._episode):
            with suppress(
                MegaflowError
            ):  # what was lost is kept already, and an ended server keeps nothing
                await self.keep_sandbox(keeping.seconds)
        session, self._session = self._session, None
        if session is None:
            return
        try:
            await session.close(wait=wait)
        finally:
            await self._connection.close()

    def forget(self) -> None:
        """Closes without waiting for the environment; for the garbage collector."""
        session, self._session = self._session, None
        if session is not None:
            self._connection.forget(session.id, session.close(wait=False))


def _only_snapshot(seed: int | None, options: dict[str, Any]) -> str:
    """The id of the snapshot; InvalidArgument for what else was said."""
    snapshot = options[SNAPSHOT]
    if not isinstance(snapshot, str):
        raise InvalidArgument(f"options: snapshot={snapshot!r}: takes the id that snapshot() gave")
    if len(options) > 1 or seed is not None:
        others = [*(["seed"] if seed is not None else []), *(set(options) - {SNAPSHOT})]
        raise InvalidArgument(
            f"{', '.join(others)} with snapshot={snapshot!r}: everything is as it was then, generators too; "
            "leave them out"
        )
    return snapshot
