"""Calls of a sandbox on their way to the server that has it: a message is its length in four bytes, then msgpack."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgpack  # type: ignore[import-untyped]

from megaflow import errors
from megaflow.sandbox import ExecResult, Output

__all__ = ["BLOCK", "MESSAGE_MOST", "Arguments", "exchange", "packed", "result_of", "value_of"]

# Bytes of a block of a file: the most that is read or written in one call.
BLOCK = 1 << 18
# Bytes of a message: two outputs at their limit, and what is around them.
MESSAGE_MOST = 40 << 20
_LENGTH = 4

Arguments: TypeAlias = Mapping[str, Any]


def packed(message: Arguments) -> bytes:
    """Raises InvalidArgument for what is none of the types of a call, a number out of range, or no text of Unicode."""
    try:
        return bytes(msgpack.packb(message))
    except UnicodeEncodeError as error:
        wrong = error.object[error.start : error.start + 1]
        raise errors.InvalidArgument(
            f"{message.get('verb')}: {wrong!r} at position {error.start} of a text is half of a character, which "
            "no file or program can be given"
        ) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.InvalidArgument(f"{message.get('verb')}: {error}") from error


def exchange(connection: socket.socket, data: bytes) -> Any:
    """Send a message that is `packed`; gives the answer."""
    connection.sendall(len(data).to_bytes(_LENGTH, "big") + data)
    length = int.from_bytes(_exactly(connection, _LENGTH), "big")
    if length > MESSAGE_MOST:
        raise ConnectionError(f"a message of {length} bytes")
    return msgpack.unpackb(_exactly(connection, length))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise ConnectionError("its server closed the connection")
        data += piece
    return bytes(data)


def value_of(reply: Any) -> Any:
    if "error" not in reply:
        return reply["value"]
    raise errors.by_name(reply["error"])(reply["message"], retry_after=reply["retry_after"])


def result_of(value: Any) -> ExecResult:
    exit_code, stdout, stderr, timed_out = value
    outputs = [Output(kept, omitted=omitted, cut=cut) for kept, omitted, cut in (stdout, stderr)]
    return ExecResult(exit_code, outputs[0], outputs[1], timed_out)
