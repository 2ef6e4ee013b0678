"""A person's look into a sandbox: of a session that runs, or of what a snapshot holds."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from megaflow.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    ResourceExhausted,
    SessionLost,
    Unavailable,
)
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.sandbox import OUTPUT_LIMIT, Output
from megaflow.transport.chunks import CHUNK_BYTES
from megaflow_server.backends.base import Exit, Terminal, TerminalKind
from megaflow_server.gateway.auth import ADMIN, Principal
from megaflow_server.gateway.lending import Held, Lending
from megaflow_server.gateway.records import Session
from megaflow_server.gateway.snapshots import Snapshots
from megaflow_server.pool.leased import Leased, Lender
from megaflow_server.sandbox.sandbox import AsyncSandbox

__all__ = ["Inside"]

# Looks at once, of everybody, into what is others' or is over, and of its owner into a session that runs.
_MOST = 64
# Bytes that are copied into a sandbox at once.
MOST_PUT = 4 << 30
# Of a command that ended what serves it, and so itself.
_KILLED = 137
_ALL_ENDED = b"what takes the sandbox's commands was ended from inside; so was all that ran\n"
# Until a client says what it wants to see; until there is a sandbox for what a snapshot holds; seconds.
_BEGIN_WITHIN = 10.0
_LEASE_WITHIN = 120.0
# Until it is known how what is at its end has ended; seconds.
_END_WITHIN = 5.0
# Rows and columns, at most: far beyond any screen.
_MOST_SIZE = 10_000

T = TypeVar("T")
Write = Callable[[pb.TerminalOutput], Awaitable[None]]


class Inside:
    """Lets callers into sandboxes: into their own, and with the scope admin into everybody's.

    Args:
        session: gives a session by its id, of an owner or (None) of anybody.
        lender: gives the sandboxes that snapshots are looked at in.
    """

    def __init__(
        self,
        session: Callable[[str, str | None], Session],
        lending: Lending,
        snapshots: Snapshots,
        lender: Lender,
    ) -> None:
        self._session = session
        self._lending = lending
        self._snapshots = snapshots
        self._lender = lender
        self._count: Counter[str] = Counter()
        self._of_snapshots: list[AsyncSandbox] = []

    def list(self, caller: Principal) -> pb.ListSandboxesResponse:
        """See ListSandboxes."""
        now = asyncio.get_running_loop().time()
        listed = [
            _listing(lent.shard.session, "session", lent.name, lent.leased)
            for lent in self._lending.all()
        ]
        for kept in self._lending.kept.all():
            listed.append(_listing(kept.session, "kept", kept.name, kept.leased))
            listed[-1].left_s = max(0.0, kept.until - now)
        listed += [
            pb.SandboxListing(
                id=snapshot_id,
                kind="snapshot",
                owner=taken.tenant,
                environment=_title(pb.EnvironmentSpec.FromString(taken.environment)),
                sandbox=name,
                template=held.template.name,
                image=held.template.image or "",
                task=taken.task,
            )
            for snapshot_id, taken in self._snapshots.all().items()
            for name, held in taken.images.items()
        ]
        return pb.ListSandboxesResponse(
            sandboxes=[one for one in listed if ADMIN in caller.scopes or one.owner == caller.name]
        )

    async def run(self, request: pb.RunInsideRequest, caller: Principal) -> pb.RunInsideResponse:
        """See RunInside. Raises as `terminal`."""
        limit = request.output_limit or OUTPUT_LIMIT
        if limit > CHUNK_BYTES // 2:
            raise InvalidArgument(
                f"output_limit={limit}: takes at most {CHUNK_BYTES // 2} bytes; have more written to a file"
            )
        where = request.inside
        async with self._entered(where, caller) as (_, sandbox):
            try:
                ended = await sandbox.exec(
                    request.command,
                    timeout=request.timeout_s if request.HasField("timeout_s") else None,
                    cwd=where.directory or None,
                    env=dict(request.environ),
                    user=where.user or None,
                    output_limit=limit,
                )
            except SessionLost:
                if not await sandbox.recover():
                    raise
                return pb.RunInsideResponse(exit_code=_KILLED, stderr=pb.CutOutput(kept=_ALL_ENDED))
            except (
                DeadlineExceeded
            ):  # so much runs that it cannot be ended by what it takes to end it
                await sandbox.end_processes()
                return pb.RunInsideResponse(exit_code=_KILLED, timed_out=True)
        return pb.RunInsideResponse(
            exit_code=ended.exit_code,
            stdout=_cut(ended.stdout),
            stderr=_cut(ended.stderr),
            timed_out=ended.timed_out,
        )

    async def put(self, inputs: AsyncIterator[pb.PutInsideRequest], caller: Principal) -> None:
        """See PutInside. Raises as `terminal`, ResourceExhausted where it is too much."""
        where: pb.Inside | None = None
        with tempfile.TemporaryFile() as tar:
            async for one in inputs:
                if one.WhichOneof("input") == "inside":
                    where = one.inside
                elif tar.tell() + len(one.tar) > MOST_PUT:
                    raise ResourceExhausted(f"the tar archive passes {MOST_PUT} bytes")
                await asyncio.to_thread(tar.write, one.tar)
            if where is None:
                raise InvalidArgument("the first message says which sandbox is meant")
            tar.seek(0)
            async with self._entered(where, caller) as (_, sandbox):
                await sandbox.put(tar)

    def running(self, where: pb.Inside, caller: Principal) -> AsyncSandbox:
        """The sandbox of a session that runs. Raises as `terminal`."""
        _, sandbox = _chosen(where, self._of(where.id, caller))
        return sandbox

    async def terminal(
        self, inputs: AsyncIterator[pb.TerminalInput], write: Write, caller: Principal
    ) -> None:
        """See OpenTerminal; returns once its program has ended, and hangs up where it is cancelled.

        Raises:
            NotFound, PermissionDenied, SessionLost: there is no such session, task or snapshot of this caller's.
            FailedPrecondition: it has no sandbox, or one without terminals.
            InvalidArgument: it has several, or there is no such user or directory in it.
            ResourceExhausted: enough look inside, or no sandbox can be had for a snapshot.
        """
        begin = await _begin(inputs)
        where = begin.inside
        kind = TerminalKind(*_size(begin.size), begin.kind or "xterm")
        async with self._entered(where, caller) as (name, sandbox):
            terminal = await sandbox.terminal(
                kind, begin.command, cwd=where.directory or None, user=where.user or None
            )
            typing = asyncio.create_task(_type(inputs, terminal))
            try:
                await write(pb.TerminalOutput(sandbox=name))
                while data := await terminal.read():
                    await write(pb.TerminalOutput(shown=data))
                await write(pb.TerminalOutput(end=_end(await _ended(terminal))))
            finally:
                typing.cancel()
                await terminal.close()
                await asyncio.gather(typing, return_exceptions=True)

    def drop(self, id_: str, caller: Principal) -> None:
        """See DropSandboxes."""
        self._lending.kept.drop(lambda kept: kept.is_of(id_) and _may_see(kept.session, caller))

    def owns(self, image: str) -> bool:
        """Whether somebody looks at what an image holds."""
        return any(image in one.images() for one in self._of_snapshots)

    @asynccontextmanager
    async def _entered(
        self, where: pb.Inside, caller: Principal
    ) -> AsyncIterator[tuple[str, AsyncSandbox]]:
        """A sandbox by its name, which nobody else is given after this session's."""
        looking = self._looking(where.id, caller)
        if self._count[looking] >= _MOST:
            raise ResourceExhausted(
                f"{_MOST} look into {looking or 'sandboxes of this server'} at the moment, which is the most at once",
                retry_after=1.0,
            )
        self._count[looking] += 1
        try:
            taken = self._snapshots.all().get(where.id)
            if taken is not None:
                seen = ADMIN in caller.scopes or caller.name == taken.tenant
                owner = taken.owner if seen else caller.name
                images = self._snapshots.use(where.id, owner).images
                name, held = _chosen(where, images)
                async with self._made_of(held, owner) as sandbox:
                    yield name, sandbox
            else:
                name, sandbox = _chosen(where, self._of(where.id, caller))
                sandbox.was_kept = True
                with self._lending.kept.looked_at(sandbox):
                    yield name, sandbox
        finally:
            self._count[looking] -= 1
            self._count = +self._count

    def _looking(self, id_: str, caller: Principal) -> str:
        """Whose count a look is in: a session's own, for the one that has it, as a runner has those of its attempts."""
        owned = (
            lent.shard.session.id
            for lent in self._lending.all()
            if lent.shard.session.id == id_ and lent.shard.session.owner == caller.name
        )
        return next(owned, "")

    def _of(self, id_: str, caller: Principal) -> Mapping[str, AsyncSandbox]:
        """The sandboxes of a session or task, by their names; before those that were kept, those of what runs."""
        found = {
            kept.name: kept.leased.sandbox
            for kept in self._lending.kept.all()
            if kept.is_of(id_) and _may_see(kept.session, caller)
        }
        for lent in self._lending.all():
            session = lent.shard.session
            if id_ and id_ in (session.id, session.task) and _may_see(session, caller):
                found[lent.name] = lent.leased.sandbox
        if not found:
            self._refuse_unknown(id_, caller)
        return found

    def _refuse_unknown(self, id_: str, caller: Principal) -> None:
        """Raises what is wrong with an id that has no sandboxes; returns where it is that of a session without any."""
        try:
            self._session(id_, None if ADMIN in caller.scopes else caller.name)
        except NotFound:
            raise NotFound(
                f"id={id_!r}: this server has neither a session nor a snapshot by that id, nor a task that runs or has "
                "left a sandbox; `megaflow shell` without one lists what can be looked into"
            ) from None

    @asynccontextmanager
    async def _made_of(self, held: Held, owner: str) -> AsyncIterator[AsyncSandbox]:
        """A sandbox of its own for what a snapshot holds, which goes when nobody looks any more."""
        deadline = asyncio.get_running_loop().time() + _LEASE_WITHIN
        leased = await self._lender.lease(held.template, owner=owner, session="", deadline=deadline)
        self._of_snapshots.append(leased.sandbox)
        try:
            await leased.sandbox.take_over(held.image)
            await leased.sandbox.enter("agent")
            yield leased.sandbox
        finally:
            self._of_snapshots.remove(leased.sandbox)
            await leased.release(dirty=True)


def _listing(session: Session, kind: str, name: str, leased: Leased) -> pb.SandboxListing:
    return pb.SandboxListing(
        id=session.id,
        kind=kind,
        owner=session.tenant,
        environment=_title(session.spec.message()),
        sandbox=name,
        template=leased.template.name,
        image=leased.template.image or "",
        task=session.task,
    )


def _may_see(session: Session, caller: Principal) -> bool:
    return ADMIN in caller.scopes or caller.name in (session.owner, session.tenant)


def _chosen(where: pb.Inside, there: Mapping[str, T]) -> tuple[str, T]:
    if not there:
        raise FailedPrecondition(
            f"id={where.id!r}: there is no sandbox to look into: its environment runs in a worker of the server"
        )
    names = ", ".join(sorted(there))
    if where.sandbox:
        if where.sandbox not in there:
            raise NotFound(f"sandbox={where.sandbox!r}: {where.id} has {names}")
        return where.sandbox, there[where.sandbox]
    if len(there) > 1:
        raise InvalidArgument(f"sandbox: {where.id} has several: name one of {names}")
    return next(iter(there.items()))


async def _begin(inputs: AsyncIterator[pb.TerminalInput]) -> pb.TerminalBegin:
    try:
        async with asyncio.timeout(_BEGIN_WITHIN):
            async for one in inputs:
                if one.WhichOneof("input") == "begin":
                    return one.begin
                break
    except TimeoutError:
        raise DeadlineExceeded(f"a terminal was not begun within {_BEGIN_WITHIN:g} s") from None
    raise InvalidArgument("the first message of a terminal begins it")


async def _type(inputs: AsyncIterator[pb.TerminalInput], terminal: Terminal) -> None:
    async for one in inputs:
        kind = one.WhichOneof("input")
        with suppress(Unavailable):  # who reads from it tells
            if kind == "typed":
                terminal.write(one.typed)
                await terminal.drain()
            elif kind == "size":
                await terminal.resize(*_size(one.size))


async def _ended(terminal: Terminal) -> Exit:
    """How its program ended, where that is known soon: a sandbox that is gone does not tell."""
    try:
        async with asyncio.timeout(_END_WITHIN):
            return await terminal.wait()
    except (TimeoutError, MegaflowError):
        return Exit()


def _size(size: pb.TerminalSize) -> tuple[int, int]:
    """Rows and columns; a person's screen that tells none is taken for a usual one."""
    return min(size.rows, _MOST_SIZE) or 24, min(size.columns, _MOST_SIZE) or 80


def _end(how: Exit) -> pb.TerminalEnd:
    return pb.TerminalEnd(exit_code=how.code, signal=how.signal)


def _cut(output: Output) -> pb.CutOutput:
    return pb.CutOutput(kept=bytes(output), omitted=output.omitted, cut=output.cut)


def _title(spec: pb.EnvironmentSpec) -> str:
    """What an environment is called, as far as it has a name."""
    maker = spec.makers[0] if spec.makers else pb.Maker()
    return maker.id or maker.known_as or ("" if maker.env_spec else "a callable")
