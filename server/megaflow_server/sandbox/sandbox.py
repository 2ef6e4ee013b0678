"""The verbs of a sandbox, over attached streams: what `proxy` serves to an environment."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import IO, Protocol
from weakref import WeakSet

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    SessionLost,
)
from megaflow.sandbox import OUTPUT_LIMIT, ExecResult
from megaflow.sandbox_messages import BLOCK
from megaflow_server.backends.base import Network, Stream, Terminal, TerminalKind
from megaflow_server.egress import NOTHING, PORT, Egress
from megaflow_server.sandbox.checks import check_command, check_text, place_of, refusal, result
from megaflow_server.sandbox.commands import Command, Ended
from megaflow_server.sandbox.jobs import Block, Opening, Place, Reading, Sign, Writing
from megaflow_server.sandbox.kept_shell import AsyncShell
from megaflow_server.sandbox.link import Link
from megaflow_server.sandbox.phases import ALIKE, Phases
from megaflow_server.sandbox.scripts import program
from megaflow_server.templates import PHASES, Phase

__all__ = ["AsyncSandbox", "Snapshots"]

_log = logging.getLogger(__name__)

# A name or id, or both with a group.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")

# What a person gets who asks for no command.
_SHELL = "command -v bash >/dev/null && exec bash; exec sh -i"

OpenStream = Callable[[str | None], Awaitable[Stream]]
EndAll = Callable[[], Awaitable[None]]
SetNetwork = Callable[[Network], Awaitable[None]]
Listen = Callable[[int], Awaitable[socket.socket]]
Put = Callable[[IO[bytes]], Awaitable[None]]
# A program, what its terminal is like, its user, variables and directory; what is None is the sandbox's own.
OpenTerminal = Callable[
    [Sequence[str], TerminalKind, str | None, Mapping[str, str], str | None], Awaitable[Terminal]
]


class Snapshots(Protocol):
    """Keeps the file system of a sandbox, and makes it anew from there."""

    async def snapshot(self) -> str:
        """Keep it as it is now; gives an id."""

    async def restore(self, snapshot: str) -> None:
        """Make a new instance in place of the old one, whose streams are over; new ones lead to the new one."""

    def adopt(self, snapshot: str) -> None:
        """Take a snapshot of another sandbox for one of this one's."""

    def size_of(self, snapshot: str) -> int:
        """The bytes of one of its own, beyond what its instance was made of."""

    def give_up(self, snapshot: str) -> None:
        """Nobody goes back to it any more; one of another sandbox's stays as long as that keeps it."""

    def images(self) -> frozenset[str]:
        """Its snapshots, its own and those of others."""


class AsyncSandbox:
    """A sandbox's verbs, used from one event loop; the arguments are those of `megaflow.sandbox`.

    Args:
        open_stream: opens a stream to a program ARGV for a user.
        snapshots: None where this kind of sandbox has none.
        phases: what differs between them.
        reach: changes what network it is on; needed where its phases differ in that.
        listen: gives a socket at a port of its loopback; needed where hosts are named in its phases.
        open_terminal: runs a program at a terminal; None where this kind of sandbox has none.
        end_all: ends every process in it from outside, asking nothing of what runs there; raises where that cannot be,
            or its instance is gone. None where this kind of sandbox cannot.
        put: unpacks a tar archive at its root. None where this kind of sandbox cannot.

    Attributes:
        was_kept: whether a snapshot was made of it, it was made anew from one, or a person was in it: nobody else may
            have it then.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        snapshots: Snapshots | None = None,
        phases: Phases = ALIKE,
        reach: SetNetwork | None = None,
        listen: Listen | None = None,
        open_terminal: OpenTerminal | None = None,
        end_all: EndAll | None = None,
        put: Put | None = None,
    ) -> None:
        self._open_stream = open_stream
        self._open_terminal = open_terminal
        self._end_all = end_all
        self._put = put
        self._snapshots = snapshots
        self._phases = phases
        self._reach = reach
        self._listen = listen
        self._egress: Egress | None = None
        self._phase: Phase | None = None  # what its instance is in is only known once it was told
        self._entering = asyncio.Lock()
        self._links: dict[str | None, asyncio.Task[Link]] = {}
        self._terminals: WeakSet[Terminal] = WeakSet()
        self._closed = False
        self.was_kept = False

    async def exec(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        output_limit: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        check_command(command, timeout, output_limit)
        place = place_of(cwd, env)
        link = await self._link(user)
        job = Command(command, limit=output_limit, timeout=timeout, place=self._equipped(place))
        ended = await link.do(job, Ended)
        if ended.no_folder:
            raise NotFound(f"cwd={cwd!r}: no folder in the sandbox that its user may enter")
        return result(ended)

    async def shell(
        self,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        interpreter: str = "/bin/sh",
    ) -> AsyncShell:
        check_text("interpreter", interpreter)
        place = place_of(cwd, env)
        link = await self._link(user)
        opening = Opening(interpreter, program("shell"), self._equipped(place))
        shell = AsyncShell(link, opening, await link.begin(opening))
        try:
            runs = bool((await shell.run("command -v read")).stdout)
        except FailedPrecondition:  # it has ended already
            runs = False
        except BaseException:
            link.hang_up(opening)
            raise
        if not runs:
            link.hang_up(opening)
            raise NotFound(
                f"interpreter={interpreter!r}, cwd={cwd!r}: no such program or folder in the sandbox, or it "
                "does not know a shell's language"
            )
        return shell

    async def terminal(
        self,
        kind: TerminalKind,
        command: str = "",
        *,
        cwd: str | None = None,
        user: str | None = None,
    ) -> Terminal:
        """A terminal for a person, and a command or (with none) a shell at it; apart from every other stream."""
        if self._open_terminal is None:
            raise FailedPrecondition(
                "this kind of sandbox has no terminals; choose docker or process, or run single commands"
            )
        check_command(command or "sh", None, 0)
        place = self._equipped(place_of(cwd, None))
        argv = ("/bin/sh", "-c", command or _SHELL)
        user = await self._user(user)
        terminal = await self._open_terminal(argv, kind, user, place.environ, cwd)
        self._terminals.add(terminal)
        return terminal

    async def _hang_up(self) -> None:
        """Not every engine tells who is at a terminal that its instance has gone."""
        terminals, self._terminals = self._terminals, WeakSet()
        await asyncio.gather(*(one.close() for one in terminals))

    async def listen(self, port: int = 0) -> socket.socket:
        """A socket at its loopback, opened from outside; port 0 is any that is free. Whoever asks for it closes it.

        Raises:
            FailedPrecondition: something listens there, or this server cannot enter the network of this sandbox.
        """
        if self._closed:
            raise SessionLost("the sandbox was closed")
        if self._listen is None:
            raise FailedPrecondition(
                "nothing can be reached from this kind of sandbox; choose docker or process"
            )
        return await self._listen(port)

    async def put(self, tar: IO[bytes]) -> None:
        """Unpack a tar archive at its root, whatever its user; `tar` is read in another thread.

        Raises:
            FailedPrecondition: this kind of sandbox takes none, or what is in it is there already.
            InvalidArgument: it is no such archive.
        """
        if self._closed:
            raise SessionLost("the sandbox was closed")
        if self._put is None:
            raise FailedPrecondition(
                "no folders can be copied into this kind of sandbox; choose docker or process"
            )
        await self._put(tar)

    async def ping(self) -> None:
        """Return as soon as it has given a sign of life, which takes far less than a command.

        Raises:
            SessionLost: it is dead, or what takes its commands is.
        """
        link = await self._link(None)
        await link.do(Sign(), bool)

    async def read_block(self, path: str, block: int, *, user: str | None = None) -> bytes:
        """The bytes of a file from `block * BLOCK` on, one block or what there is."""
        check_text("path", path)
        if not 0 <= block < 1 << 40:
            raise InvalidArgument(f"block={block}: takes a number from 0 on")
        link = await self._link(user)
        read = await link.do(Reading(path, block), Block)
        if read.status != "ok":
            raise refusal(path, read.status)
        return read.data

    async def write_block(
        self, path: str, data: bytes, *, append: bool, user: str | None = None
    ) -> None:
        """Make a file of at most BLOCK bytes, or append as many to one."""
        check_text("path", path)
        if len(data) > BLOCK:
            raise InvalidArgument(f"data: {len(data)} bytes are more than the {BLOCK} of a block")
        link = await self._link(user)
        status = await link.do(Writing(path, data, append=append), str)
        if status != "ok":
            raise refusal(path, status)

    async def enter(self, phase: Phase) -> None:
        if phase not in PHASES:
            raise InvalidArgument(f"phase={phase!r}: there are {', '.join(PHASES)}")
        async with self._entering:
            if phase == "verifier":
                await self._start_over()
            await self._enter(phase)

    async def end_processes(self) -> None:
        """End everything in it that runs, from outside; what is asked for then has new streams, with new secrets."""
        if self._end_all is None:
            raise FailedPrecondition(
                "this kind of sandbox cannot end what runs in it; choose docker or process"
            )
        async with self._entering:
            await self._start_over()
            if self._phase is not None:
                await self._enter(self._phase)

    async def recover(self) -> bool:
        """After a SessionLost: whether its instance is there, so that all was ended in it and it can be used.

        What an agent's commands and tests may do is to kill what serves them; nobody but them could have, then.
        """
        async with self._entering:
            if self._closed or self._end_all is None or self._phase in (None, "setup"):
                return False
            try:
                # None are left where starting over has failed before.
                if not self._links or any(map(_is_lost, self._links.values())):
                    await self._start_over()
                    await self._enter(self._phase)
            except MegaflowError as error:
                _log.info("a sandbox is lost for good: %s", error.message)
                return False
            return True

    async def _start_over(self) -> None:
        if self._closed:
            raise SessionLost("the sandbox was closed")
        if self._end_all is None:
            return
        # First in peace, so that they leave no files.
        links, self._links = self._links, {}
        await _close(links)
        await self._hang_up()
        await self._end_all()

    async def snapshot(self) -> str:
        kept = self._kept()
        self.was_kept = True
        return await kept.snapshot()

    async def restore(self, snapshot: str) -> None:
        kept = self._kept()
        self.was_kept = True
        await kept.restore(snapshot)
        links, self._links = self._links, {}
        await _close(links)
        await self._hang_up()
        async with self._entering:
            # What it reaches was the old instance's.
            await self._shut()
            if self._phase is not None:
                await self._enter(self._phase)

    async def take_over(self, snapshot: str) -> None:
        """Go on from a snapshot of another sandbox: for who knows that the session may have it."""
        self._kept().adopt(snapshot)
        await self.restore(snapshot)

    def folders(self) -> frozenset[str]:
        """The names of its own folders in what it is in; they go when it is closed."""
        opened = [one for one in self._links.values() if one.done() and not one.cancelled()]
        return frozenset(one.result().folder for one in opened if one.exception() is None)

    def size_of(self, snapshot: str) -> int:
        """The bytes of a snapshot of its own, beyond what it came of."""
        return self._kept().size_of(snapshot)

    def give_up(self, snapshot: str) -> None:
        """Keep a snapshot no longer, once nothing that came of it is left; one that is none of its own is fine."""
        if self._snapshots is not None:
            self._snapshots.give_up(snapshot)

    def images(self) -> frozenset[str]:
        """What must be kept for it: its snapshots, and those of others that it went on from."""
        return frozenset() if self._snapshots is None else self._snapshots.images()

    def _kept(self) -> Snapshots:
        if self._snapshots is None:
            raise FailedPrecondition(
                "this kind of sandbox keeps no snapshots; choose a backend that has 'commit', such as docker"
            )
        return self._snapshots

    async def close(self) -> None:
        """End every stream; the instance is its owner's to destroy."""
        self._closed = True
        links, self._links = self._links, {}
        await _close(links)
        await self._hang_up()
        await self._shut()

    async def _link(self, user: str | None) -> Link:
        user = await self._user(user)
        task = self._links.get(user)
        if task is None or (task.done() and task.exception() is not None):
            # Its own task: one caller's cancellation is not the others'.
            task = asyncio.get_running_loop().create_task(self._open(user))
            self._links[user] = task
        return await asyncio.shield(task)

    async def _user(self, user: str | None) -> str | None:
        """Who runs what is asked for now."""
        if self._closed:
            raise SessionLost("the sandbox was closed")
        phase = await self._begun()
        user = self._phases.user.of(phase) if user is None else user
        if user is not None and not _USER.fullmatch(user):
            raise InvalidArgument(f"user={user!r}: takes a name or id, or user:group")
        return user

    async def _begun(self) -> Phase:
        """The phase that it is in; it begins with its set-up, whatever its instance was used for before."""
        async with self._entering:
            return self._phase or await self._enter("setup")

    async def _enter(self, phase: Phase) -> Phase:
        if self._closed:
            raise SessionLost("the sandbox was closed")
        hosts = None
        if self._phases.any_hosts:
            hosts = self._phases.hosts(phase)
            egress = await self._open_egress()
            egress.allow(NOTHING)  # so that what goes wrong from here on leaves less open, not more
        if self._reach is not None and not self._phases.one_network:
            await self._reach(self._phases.reach(phase))
        if hosts is not None:
            egress.allow(hosts)
        self._phase = phase
        return phase

    async def _open_egress(self) -> Egress:
        if self._egress is None:
            assert self._listen is not None
            listener = await self._listen(PORT)
            if self._closed:
                listener.close()
                raise SessionLost("the sandbox was closed")
            self._egress = Egress(listener)
        return self._egress

    async def _shut(self) -> None:
        egress, self._egress = self._egress, None
        if egress is not None:
            await egress.close()

    def _equipped(self, place: Place) -> Place:
        """A place with what programs find the hosts by that they may reach."""
        if self._egress is None:
            return place
        return replace(place, environ={**self._egress.environ, **place.environ})

    async def _open(self, user: str | None) -> Link:
        return Link(await self._open_stream(user))


def _is_lost(task: asyncio.Task[Link]) -> bool:
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or task.result().lost is not None


async def _close(links: Mapping[str | None, asyncio.Task[Link]]) -> None:
    for task in links.values():
        task.cancel() if not task.done() else None
    opened = await asyncio.gather(*links.values(), return_exceptions=True)
    await asyncio.gather(*(link.close() for link in opened if isinstance(link, Link)))
