"""A look into sandboxes: which there are, commands in them, and terminals in them for a person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal, Self, cast

import grpc

from megaflow.connection import Connection
from megaflow.errors import InvalidArgument, SessionLost
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.sandbox import ExecResult, Output
from megaflow.transport.io import run

__all__ = ["AsyncTerminal", "SandboxInfo", "Terminal", "beginning", "result_of", "running"]

_MOST_SIZE = 10_000


@dataclass(frozen=True)
class SandboxInfo:
    """A sandbox that may be looked into.

    Attributes:
        id: of its session or snapshot.
        kind: of a session that runs, "kept" from one that is over, or held by a snapshot.
        owner: the principal that has it.
        environment: its name, where it has one.
        sandbox: which one of the session or snapshot.
        image: None where it is made of processes.
        task: the id of the task that its session is or was for, if any.
        left: seconds for which it is still kept; None where its session runs, and for a snapshot.
    """

    id: str
    kind: Literal["session", "kept", "snapshot"]
    owner: str
    environment: str
    sandbox: str
    template: str
    image: str | None
    task: str | None
    left: float | None

    @staticmethod
    def all_of(answer: pb.ListSandboxesResponse) -> list[SandboxInfo]:
        return [
            SandboxInfo(
                one.id,
                cast(Literal["session", "kept", "snapshot"], one.kind),
                one.owner,
                one.environment,
                one.sandbox,
                one.template,
                one.image or None,
                one.task or None,
                one.left_s if one.HasField("left_s") else None,
            )
            for one in answer.sandboxes
        ]


def running(
    id_: str,
    command: str,
    sandbox: str,
    user: str,
    cwd: str,
    timeout: float | None,
    output_limit: int,
    env: Mapping[str, str] | None = None,
) -> pb.RunInsideRequest:
    """The request of `Client.run_inside`."""
    if type(output_limit) is not int or not 0 < output_limit < 1 << 32:
        raise InvalidArgument(f"output_limit={output_limit!r}: takes a whole number from 1 on")
    return pb.RunInsideRequest(
        inside=pb.Inside(id=id_, sandbox=sandbox, user=user, directory=cwd),
        command=command,
        timeout_s=timeout,
        output_limit=output_limit,
        environ=env or {},
    )


def result_of(answer: pb.RunInsideResponse) -> ExecResult:
    stdout, stderr = (
        Output(one.kept, omitted=one.omitted, cut=one.cut) for one in (answer.stdout, answer.stderr)
    )
    return ExecResult(answer.exit_code, stdout, stderr, answer.timed_out)


def beginning(
    id_: str,
    command: str,
    rows: int,
    columns: int,
    term: str,
    sandbox: str,
    user: str,
    cwd: str,
) -> pb.TerminalInput:
    """The first message of `Client.terminal`."""
    return pb.TerminalInput(
        begin=pb.TerminalBegin(
            inside=pb.Inside(id=id_, sandbox=sandbox, user=user, directory=cwd),
            command=command,
            size=_size(rows, columns),
            kind=term,
        )
    )


def _size(rows: int, columns: int) -> pb.TerminalSize:
    for name, value in (("rows", rows), ("columns", columns)):
        if type(value) is not int or not 0 < value <= _MOST_SIZE:
            raise InvalidArgument(f"{name}={value!r}: takes a whole number from 1 to {_MOST_SIZE}")
    return pb.TerminalSize(rows=rows, columns=columns)


class _Shown:
    """What comes of a terminal, and how it ended.

    Attributes:
        sandbox: the name of the one that it is in.
        exit_code, signal: how its program ended, once `read` has given b""; both None where nobody knows, since the
            sandbox has ended.
    """

    sandbox = ""
    exit_code: int | None = None
    signal: int | None = None
    _ended = False

    @property
    def status(self) -> int | None:
        """The exit code as a shell has it: 128 and the signal's number after one. None as for `exit_code`."""
        return self.exit_code if self.signal is None else 128 + self.signal

    def _take(self, output: pb.TerminalOutput) -> bytes:
        kind = output.WhichOneof("output")
        if kind == "sandbox":
            self.sandbox = output.sandbox
        elif kind == "end":
            self._ended = True
            self.exit_code = output.end.exit_code if output.end.HasField("exit_code") else None
            self.signal = output.end.signal if output.end.HasField("signal") else None
        return output.shown

    def __repr__(self) -> str:
        state = f"ended with {self.status}" if self._ended else "open"
        return f"<{type(self).__name__} in {self.sandbox!r}, {state}>"


class Terminal(_Shown):
    """A terminal in a sandbox; close it, or use it as a context manager."""

    def __init__(self, connection: Connection, begin: pb.TerminalInput) -> None:
        self._connection: Connection | None = connection.share()
        self._failed = connection.failed
        self._inputs: SimpleQueue[pb.TerminalInput | None] = SimpleQueue()
        self._inputs.put(begin)
        self._call: Any = None
        try:
            self._call = connection.terminal(iter(self._inputs.get, None))
            self._next()
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes:
        """What it shows next, as soon as there is some; b"" once its program has ended.

        Raises:
            Unavailable, SessionLost: the connection or the sandbox has gone.
        """
        while not self._ended and self._connection is not None:
            if shown := self._next():
                return shown
        return b""

    def _next(self) -> bytes:
        try:
            return self._take(next(self._call))
        except StopIteration:
            raise SessionLost("the terminal ended without a word") from None
        except grpc.RpcError as error:
            failed = self._failed(error)
            raise failed from failed.__cause__

    def write(self, data: bytes) -> None:
        """Type."""
        self._inputs.put(pb.TerminalInput(typed=data))

    def resize(self, rows: int, columns: int) -> None:
        """Tell its program that the terminal has another size."""
        self._inputs.put(pb.TerminalInput(size=_size(rows, columns)))

    def close(self) -> None:
        """Hang up. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._inputs.put(None)
        if self._call is not None:
            self._call.cancel()
        run(connection.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncTerminal(_Shown):
    """See `Terminal`; made by `open`."""

    def __init__(self, connection: Connection, begin: pb.TerminalInput) -> None:
        self._connection: Connection | None = connection.share()
        self._failed = connection.failed
        self._inputs: asyncio.Queue[pb.TerminalInput | None] = asyncio.Queue()
        self._inputs.put_nowait(begin)
        self._call: Any = connection.terminal(self._typed())
        self._outputs: Any = self._call.__aiter__()

    @classmethod
    async def open(cls, connection: Connection, begin: pb.TerminalInput) -> Self:
        """Once its program runs."""
        terminal = cls(connection, begin)
        try:
            await terminal._next()
        except BaseException:
            await terminal.close()
            raise
        return terminal

    async def _typed(self) -> AsyncIterator[pb.TerminalInput]:
        while (one := await self._inputs.get()) is not None:
            yield one

    async def read(self) -> bytes:
        """See `Terminal.read`."""
        while not self._ended and self._connection is not None:
            if shown := await self._next():
                return shown
        return b""

    async def _next(self) -> bytes:
        try:
            return self._take(await anext(self._outputs))
        except StopAsyncIteration:
            raise SessionLost("the terminal ended without a word") from None
        except grpc.RpcError as error:
            failed = self._failed(error)
            raise failed from failed.__cause__

    def write(self, data: bytes) -> None:
        """Type; it is sent later."""
        self._inputs.put_nowait(pb.TerminalInput(typed=data))

    def resize(self, rows: int, columns: int) -> None:
        """Tell its program that the terminal has another size."""
        self._inputs.put_nowait(pb.TerminalInput(size=_size(rows, columns)))

    async def close(self) -> None:
        """Hang up. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._inputs.put_nowait(None)
        self._call.cancel()
        await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
