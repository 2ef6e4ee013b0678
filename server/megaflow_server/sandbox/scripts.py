"""The shell programs that run inside a sandbox, and the two ways to hand them text."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from megaflow.errors import FailedPrecondition, MegaflowError

__all__ = ["NEEDS", "as_format", "missing", "program", "quoted"]

# What boot.sh and main.sh call beside a shell's own commands.
NEEDS = ("cat", "dd", "mkdir", "mkfifo", "mv", "rm", "setsid", "wc")


@cache
def program(name: str) -> str:
    """The text of one of the programs, without the lines that only a reader needs."""
    text = (files("megaflow_server.sandbox") / f"{name}.sh").read_text(encoding="ascii")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"


def missing(what: str) -> MegaflowError:
    """What boot.sh has not found: a program, or "folder" for one to write to."""
    if what == "folder":
        return FailedPrecondition(
            "the sandbox has no folder to write to: one of /dev/shm, /tmp, /var/tmp, /run or the user's home "
            "must be writable for its user"
        )
    return FailedPrecondition(
        f"the sandbox's image lacks {what}: it needs /bin/sh, {', '.join(NEEDS)}, as busybox or coreutils "
        "and util-linux have them"
    )


def quoted(text: bytes) -> bytes:
    """One word of a shell's language that stands for exactly this text, which holds no NUL."""
    return b"'" + text.replace(b"'", b"'\\''") + b"'"


def as_format(data: bytes) -> bytes:
    """One word of a shell's language: a format with which `printf` gives exactly these bytes."""
    return b"'" + b"".join(map(_FORMAT.__getitem__, data)) + b"'"


def _in_format(byte: int) -> bytes:
    if byte == ord("%"):
        return b"%%"
    if byte == ord("\\"):
        return b"\\\\"
    # "-" could begin an option. A line's end stays one: a shell takes long lines, a terminal would not.
    plain = 0x20 <= byte < 0x7F and byte not in b"'-"
    return bytes([byte]) if plain or byte == 0x0A else b"\\%03o" % byte


_FORMAT = tuple(_in_format(byte) for byte in range(256))
