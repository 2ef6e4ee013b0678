"""Folders that a sandbox's user must be able to write to, made or handed over from outside: it may not be root."""

from __future__ import annotations

import asyncio
import posixpath
import tarfile
import tempfile
from collections.abc import Sequence
from typing import IO

from megaflow.errors import FailedPrecondition, NotFound, ResourceExhausted
from megaflow_server.backends.base import Instance

__all__ = ["hand_over"]

# Bytes that a folder which is handed over may have: each is copied out and in, and counts as written.
_MOST = 64 << 20
# Whose number and group these are, and which of the folders are not theirs to write to.
_LOOK = r"""
printf '%s\0%s\0' "$(id -u)" "$(id -g)"
for one; do
  [ "$one" = . ] && one=$(pwd -P)
  [ "$one" = / ] || { [ -d "$one" ] && [ -w "$one" ]; } || printf '%s\0' "$one"
done
"""


async def hand_over(instance: Instance, folders: Sequence[str], user: str | None) -> None:
    """Have folders, with all that is in them, be a user's that may not write to them; make those that are missing.

    Args:
        folders: absolute paths; "." for where commands begin, unless that is the whole file system.

    Raises:
        FailedPrecondition: one of them has more in it than is copied.
    """
    number, group, *wanted = await _look(instance, folders, user)
    for folder in wanted:
        with tempfile.TemporaryFile() as there, tempfile.TemporaryFile() as handed:
            try:
                await instance.get(folder, there, most=_MOST)
            except NotFound:
                pass  # made of nothing, then
            except ResourceExhausted as error:
                raise FailedPrecondition(
                    f"{folder} of its image is not its user's, and has more in it than the {_MOST >> 20} MiB that "
                    'are handed over: have its Dockerfile make it its user\'s (USER), or choose profile = "standard", '
                    "in the template or as [docker] profile, where commands are root's"
                ) from error
            await asyncio.to_thread(_rewrite, folder, there, handed, (int(number), int(group)))
            await instance.put("/", handed)


async def _look(instance: Instance, folders: Sequence[str], user: str | None) -> list[str]:
    stream = await instance.open_stream(("sh", "-c", _LOOK, "sh", *folders), user=user)
    try:
        said = b""
        while data := await stream.read():
            said += data
    finally:
        await stream.close()
    return said.decode(errors="surrogateescape").split("\0")[:-1]


def _rewrite(folder: str, there: IO[bytes], handed: IO[bytes], owner: tuple[int, int]) -> None:
    """A tar of a folder as the engine gave it, or of none, as one whose owner has all of it; from `/` on."""
    parent = folder.strip("/").rpartition("/")[0]
    with tarfile.open(fileobj=handed, mode="w", format=tarfile.PAX_FORMAT) as made:
        first = tarfile.TarInfo(folder.strip("/"))
        first.type, first.mode = tarfile.DIRTYPE, 0o755
        first.uid, first.gid = owner
        made.addfile(first)
        there.seek(0)
        if there.read(1):
            there.seek(0)
            with tarfile.open(fileobj=there) as found:
                for member in found:
                    if member.isdev() and not member.isfifo():
                        continue
                    content = found.extractfile(member) if member.isreg() else None
                    made.addfile(_owned(member, parent, owner), content)
    handed.seek(0)


def _owned(member: tarfile.TarInfo, parent: str, owner: tuple[int, int]) -> tarfile.TarInfo:
    member.name = posixpath.join(parent, member.name)
    if member.islnk():
        member.linkname = posixpath.join(parent, member.linkname)
    member.uid, member.gid = owner
    member.uname = member.gname = ""
    member.mode &= 0o1777  # what is root's to run as root is so no more
    member.pax_headers = {}
    return member
