"""Errors on the wire: exceptions to `Error` messages and back.

An environment's own exception keeps its type where that is a builtin or one of gymnasium's, as gymnasium's
vector environments re-raise the original; nothing else is looked up by name, so a server cannot choose
which class of the client's program is built.
"""

from __future__ import annotations

import builtins
import traceback as traceback_module

import grpc
import grpc.aio
from gymnasium import error as gymnasium_error

from megaflow.errors import EnvironmentFailed, InvalidArgument, MegaflowError, by_name, by_status
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values

METADATA_KEY = "megaflow-error-bin"

# Characters of each text in an error that travels as metadata; transport/chunks.py sets gRPC's limit.
_METADATA_TEXT = 4000


def to_message(error: BaseException, *, log_tail: str = "") -> pb.Error:
    """The message for an exception: one of the tree as it is, any other as the environment's own."""
    if isinstance(error, EnvironmentFailed):
        return pb.Error(
            kind="EnvironmentFailed",
            message=error.message,
            exception_type=error.exception_type,
            traceback=error.traceback,
            log_tail=error.log_tail,
        )
    if isinstance(error, MegaflowError):
        return pb.Error(
            kind=type(error).__name__, message=error.message, retry_after=error.retry_after
        )
    return pb.Error(
        kind="EnvironmentFailed",
        message=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
        exception_type=f"{type(error).__module__}.{type(error).__qualname__}",
        exception_args=_encode_args(error),
        traceback="".join(traceback_module.format_exception(error)),
        log_tail=log_tail,
        notes=getattr(error, "__notes__", ()),
    )


def _encode_args(error: BaseException) -> bytes:
    try:
        return values.encode(error.args)
    except InvalidArgument:
        return b""


def from_message(message: pb.Error) -> Exception:
    """The exception for a message, ready to be raised.

    An environment's ValueError comes back as a ValueError whose `__cause__` is the `EnvironmentFailed`
    that carries the remote traceback.
    """
    if message.kind == "EnvironmentFailed":
        failed = EnvironmentFailed(
            message.message,
            exception_type=message.exception_type,
            traceback=message.traceback,
            log_tail=message.log_tail,
        )
        return _noted(_original(message, failed) or failed, message)
    retry_after = message.retry_after if message.HasField("retry_after") else None
    return by_name(message.kind)(message.message, retry_after=retry_after)


def _noted(error: Exception, message: pb.Error) -> Exception:
    for note in message.notes:
        error.add_note(note)
    return error


def _original(message: pb.Error, failed: EnvironmentFailed) -> Exception | None:
    module, _, name = message.exception_type.rpartition(".")
    namespace = {"builtins": builtins, "gymnasium.error": gymnasium_error}.get(module)
    cls = getattr(namespace, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Exception)) or not message.exception_args:
        return None
    args = values.decode(message.exception_args)
    if not isinstance(args, tuple):
        return None
    try:
        original = cls(*args)
    except TypeError:  # a class that wants other arguments than the ones it keeps
        return None
    original.__cause__ = failed
    return original


def status_of(message: pb.Error) -> grpc.StatusCode:
    """The gRPC status of a call that fails with this error."""
    return by_name(message.kind).status


def to_metadata(message: pb.Error) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that carries an error beside the status of a unary call."""
    short = pb.Error()
    short.CopyFrom(message)
    _shorten(short)
    return ((METADATA_KEY, short.SerializeToString()),)


def _shorten(message: pb.Error) -> None:
    """Cuts the texts of a message to what fits into gRPC's metadata: the end of a traceback says most."""
    message.message = _cut_end(message.message)
    message.traceback = _cut_start(message.traceback)
    message.log_tail = _cut_start(message.log_tail)
    if len(message.exception_args) > _METADATA_TEXT:
        message.exception_args = b""


def _cut_end(text: str) -> str:
    return text if len(text) <= _METADATA_TEXT else text[:_METADATA_TEXT] + " …"


def _cut_start(text: str) -> str:
    return text if len(text) <= _METADATA_TEXT else "… " + text[-_METADATA_TEXT:]


def message_of(error: grpc.RpcError) -> pb.Error | None:
    """The error that the server attached to a failed call; None where gRPC itself failed it."""
    metadata = error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    for key, value in metadata or ():
        if key == METADATA_KEY:
            return pb.Error.FromString(value if isinstance(value, bytes) else value.encode())
    return None


def from_rpc_error(error: grpc.RpcError, address: str) -> Exception:
    """The exception that stands for a failed call: the server's own where it sent one, else by status."""
    message = message_of(error)
    if message is not None:
        return from_message(message)
    status = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    detail = error.details() if isinstance(error, grpc.Call) else str(error)
    return by_status(status)(f"{address}: {status.name}: {detail}")
