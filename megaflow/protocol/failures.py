"""Errors on the wire: exceptions to `Error` messages and back.

An environment's own exception keeps its type where that is a builtin or one of gymnasium's, as gymnasium's
vector environments re-raise the original; nothing else is looked up by name, so a server cannot choose
which class of the client's program is built.

A gateway passes errors on and starts without gymnasium and numpy: these are imported where an environment's own
exception is written or read.
"""

from __future__ import annotations

import builtins
import traceback as traceback_module

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from megaflow.errors import EnvironmentFailed, InvalidArgument, MegaflowError, by_name, by_status
from megaflow.protocol import megaflow_pb2 as pb

METADATA_KEY = "megaflow-error-bin"

# Characters of each text in an error that travels as metadata; transport/chunks.py sets gRPC's limit.
_METADATA_TEXT = 4000


def to_message(error: BaseException, *, log_tail: str = "") -> pb.Error:
    """The message for an exception: one of the tree as it is, any other as the environment's own."""
    if isinstance(error, EnvironmentFailed):
        return pb.Error(
            kind="EnvironmentFailed",
            message=_text(error.message),
            exception_type=_text(error.exception_type),
            traceback=_text(error.traceback),
            log_tail=_text(error.log_tail),
        )
    if isinstance(error, MegaflowError):
        kind = next(cls.__name__ for cls in type(error).__mro__ if by_name(cls.__name__) is cls)
        return pb.Error(kind=kind, message=_text(error.message), retry_after=error.retry_after)
    name, text = type(error).__name__, _text(error)
    return pb.Error(
        kind="EnvironmentFailed",
        message=_text(f"{name}: {text}" if text else name),
        exception_type=_text(f"{type(error).__module__}.{type(error).__qualname__}"),
        exception_args=_encode_args(error),
        traceback=_text("".join(traceback_module.format_exception(error))),
        log_tail=_text(log_tail),
        notes=[_text(note) for note in getattr(error, "__notes__", None) or ()],
    )


def _text(value: object) -> str:
    """`value` as text that protobuf takes, whatever the environment's own `__str__` does."""
    try:
        text = str(value)
    except Exception as error:
        text = f"<{type(value).__name__}.__str__ raised {type(error).__name__}>"
    # A file's name may hold a lone surrogate, which UTF-8 does not have.
    return text.encode("utf-8", "backslashreplace").decode()


def _encode_args(error: BaseException) -> bytes:
    from megaflow.protocol import values

    args = error.args
    if isinstance(error, OSError) and error.filename is not None and len(args) == 2:
        # It keeps its file names beside its args, and takes them among them (the fourth is Windows's).
        args = (*args, error.filename, None, error.filename2)
    try:
        return values.encode(args)
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
    """The environment's own exception; None where its class or its arguments are not to be had."""
    from gymnasium import error as gymnasium_error

    from megaflow.protocol import values

    module, _, name = message.exception_type.rpartition(".")
    namespace = {"builtins": builtins, "gymnasium.error": gymnasium_error}.get(module)
    cls = getattr(namespace, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Exception)) or not message.exception_args:
        return None
    try:
        args = values.decode(message.exception_args)
        if not isinstance(args, tuple):
            return None
        try:
            original: Exception = cls(*args)
        except TypeError:
            if module == "builtins":
                raise
            # One of gymnasium's keeps fewer arguments than it takes.
            original = cls.__new__(cls, *args)
    except Exception:  # no value, or not what this class takes; `failed` says all that is known
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
    message.exception_type = _cut_start(message.exception_type)
    if sum(map(len, message.notes)) > _METADATA_TEXT:
        notes = _cut_end("\n".join(message.notes))
        del message.notes[:]
        message.notes.append(notes)
    if len(message.exception_args) > _METADATA_TEXT:
        message.exception_args = b""


def _cut_end(text: str) -> str:
    return text if len(text) <= _METADATA_TEXT else text[:_METADATA_TEXT] + " …"


def _cut_start(text: str) -> str:
    return text if len(text) <= _METADATA_TEXT else "… " + text[-_METADATA_TEXT:]


def message_of(error: grpc.RpcError) -> pb.Error | None:
    """The error that the server attached to a failed call; None where gRPC itself failed it."""
    metadata = (
        error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    )
    for key, value in metadata or ():
        if key == METADATA_KEY:
            try:
                return pb.Error.FromString(value if isinstance(value, bytes) else value.encode())
            except DecodeError:  # somebody else's key: the status has to do
                return None
    return None


def status_and_details(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """What gRPC says of a failed call, blocking or not."""
    if isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return error.code(), error.details() or str(error)
    return grpc.StatusCode.UNKNOWN, str(error)


def from_rpc_error(error: grpc.RpcError, address: str) -> Exception:
    """The exception that stands for a failed call: the server's own where it sent one, else by status."""
    message = message_of(error)
    if message is not None:
        return from_message(message)
    status, details = status_and_details(error)
    return by_status(status)(f"{address}: {status.name}: {details}")
