"""What a sandbox is asked for, checked before it is sent, and what it answers, in our own words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    ResourceExhausted,
)
from megaflow.sandbox import ExecResult
from megaflow_server.sandbox.commands import Ended
from megaflow_server.sandbox.jobs import Place, as_bytes
from megaflow_server.sandbox.machine import OUTPUT_LIMIT_MOST

__all__ = ["check_command", "check_text", "place_of", "refusal", "result"]

# execve(2) takes no longer argument than 32 pages.
_COMMAND_MOST = (1 << 17) - 1
# It takes a quarter of the stack's limit, 8 MiB as a rule, for arguments and variables together.
_ENV_MOST = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def result(ended: Ended) -> ExecResult:
    """What a caller sees of how a command ended."""
    return ExecResult(ended.exit_code, ended.stdout, ended.stderr, ended.timed_out)


def check_command(command: str, timeout: float | None, output_limit: int) -> None:
    """Raise InvalidArgument for what cannot be run."""
    check_text("command", command)
    if len(command.encode("utf-8", "surrogateescape")) > _COMMAND_MOST:
        raise InvalidArgument(
            f"command: over {_COMMAND_MOST} bytes, which no program takes as one argument; write it to a file "
            "and run that"
        )
    if timeout is not None and not (
        isinstance(timeout, int | float) and timeout > 0
    ):  # no nan, too
        raise InvalidArgument(f"timeout={timeout!r}: takes seconds above 0, or None for no limit")
    if type(output_limit) is not int or not 0 <= output_limit <= OUTPUT_LIMIT_MOST:
        raise InvalidArgument(
            f"output_limit={output_limit!r}: takes 0 to {OUTPUT_LIMIT_MOST} bytes; have more written to a file"
        )


def place_of(cwd: str | None, env: Mapping[str, str] | None) -> Place:
    if env is not None and not isinstance(env, Mapping):
        raise InvalidArgument(f"env={env!r}: takes a map of names to values")
    for name, value in (env or {}).items():
        if not _NAME.fullmatch(name):
            raise InvalidArgument(
                f"env: {name!r} is no variable's name: letters, digits and '_', no digit first"
            )
        check_text(f"env[{name!r}]", value)
        if len(name) + 1 + len(as_bytes(value)) > _COMMAND_MOST:
            raise InvalidArgument(
                f"env[{name!r}]: over {_COMMAND_MOST} bytes with its name, which no program takes; write it to a file"
            )
    if sum(len(name) + len(as_bytes(value)) for name, value in (env or {}).items()) > _ENV_MOST:
        raise InvalidArgument(f"env: over {_ENV_MOST} bytes together; write them to a file")
    if cwd is not None:
        check_text("cwd", cwd)
    return Place(cwd or ".", dict(env or {}))


def check_text(name: str, text: str) -> None:
    if not isinstance(text, str):
        raise InvalidArgument(f"{name}={text!r}: takes text")
    try:
        as_bytes(text)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name}: {error}") from None
    if "\0" in text:
        raise InvalidArgument(
            f"{name}={text[:80]!r}: holds a NUL, which no argument of a program can"
        )


def refusal(path: str, status: str) -> MegaflowError:
    if status == "missing":
        return NotFound(f"path={path!r}: no such file in the sandbox")
    if status == "folder":
        return InvalidArgument(
            f"path={path!r}: a folder; take a file in it, or download() the folder"
        )
    if status == "special":
        return InvalidArgument(f"path={path!r}: a device or pipe, no regular file")
    if status == "denied":
        return FailedPrecondition(f"path={path!r}: the sandbox's user may not read it")
    if status == "full":
        return ResourceExhausted(f"path={path!r}: the sandbox's temporary folder is full")
    why = status.removeprefix("failed").rpartition(": ")[2].strip() or "no room is left"
    return FailedPrecondition(f"path={path!r}: cannot be written: {why}")
