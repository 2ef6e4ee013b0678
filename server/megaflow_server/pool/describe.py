"""What a file is, in a line: seen from outside of the instance that it is in, so that nothing there can lie."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, cast

from megaflow.errors import NotFound, ResourceExhausted
from megaflow_server.attributes import attributes
from megaflow_server.backends.base import Instance

__all__ = ["GONE", "describe", "describe_tree"]

# What a path is at which there is nothing.
GONE = "nothing"
# The largest file that is compared; what is larger counts as changed.
_MOST = 64 << 20
_BLOCK = 1 << 20
# So that it is like nothing, itself included.
_UNLIKE = itertools.count()


async def describe(instance: Instance, path: str) -> str:
    """What is at a path: type, permissions, owner, attributes, and the digest of a file; of a folder no more."""
    line = await _packed(instance, path)
    return line if line == GONE else f"{line} {await instance.attributes(path)}"


async def _packed(instance: Instance, path: str) -> str:
    """By what its backend packs of it."""
    head = _Head()
    try:
        await instance.get(path, cast(IO[bytes], head), most=_MOST)
    except _FolderSeen as seen:
        return _line(seen.member, "")
    except NotFound:
        return GONE
    except ResourceExhausted:
        return f"a file of more than {_MOST} bytes, which is not compared ({next(_UNLIKE)})"
    with tarfile.open(fileobj=io.BytesIO(head.packed.getvalue()), mode="r:") as archive:
        member = archive.next()
        if member is None:
            return "what no archive holds: a socket"
        content = archive.extractfile(member) if member.isreg() else None
        return _line(member, hashlib.sha256(content.read()).hexdigest() if content else "")


class _FolderSeen(Exception):
    """The tar is that of a folder: what is in it is not to be read."""

    def __init__(self, member: tarfile.TarInfo) -> None:
        super().__init__(member.name)
        self.member = member


class _Head:
    """Takes a tar, until that turns out to be a folder's."""

    def __init__(self) -> None:
        self.packed = io.BytesIO()
        self._known = False

    def write(self, data: bytes) -> int:
        self.packed.write(data)
        if not self._known:
            member = _first(self.packed.getvalue())
            self._known = member is not None
            if member is not None and member.isdir():
                raise _FolderSeen(member)
        return len(data)


def _first(data: bytes) -> tarfile.TarInfo | None:
    """The first member of the beginning of a tar; None where its header is not all there."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            return archive.next()
    except tarfile.ReadError:
        return None


def _line(member: tarfile.TarInfo, digest: str) -> str:
    kind = member.type.decode("ascii", "replace")
    link = f" -> {member.linkname}" if member.linkname else ""
    return f"{kind} {member.mode & 0o7777:o} {member.uid}:{member.gid} {digest}{link}"


def describe_tree(root: Path) -> dict[str, str]:
    """The same of everything below a folder of this host, by path as seen from there: "/tmp/a"."""
    found = {"/": _described(root)}
    pending = [(root, "")]
    while pending:
        folder, name = pending.pop()
        try:
            for entry in _entries(folder):
                path = Path(entry.path)
                found[f"{name}/{entry.name}"] = _described(path)
                if entry.is_dir(follow_symlinks=False):
                    pending.append((path, f"{name}/{entry.name}"))
        except OSError as error:  # it is locked, or deeper than a path is long
            found[name or "/"] = _unlike(error)
    return found


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:  # it went meanwhile
        return []


def _unlike(error: OSError) -> str:
    return f"what cannot be looked at ({error.strerror}, {next(_UNLIKE)})"


def _described(path: Path) -> str:
    try:
        status = path.lstat()
        owner = f"{stat.S_IFMT(status.st_mode):o} {status.st_mode & 0o7777:o} {status.st_uid}:{status.st_gid}"
        if others := attributes(path):
            owner += f" {others}"
        if stat.S_ISLNK(status.st_mode):
            return f"{owner} -> {path.readlink()}"
        if not stat.S_ISREG(status.st_mode):
            return owner
        if status.st_size > _MOST:
            # Who writes to it changes these, and cannot set them.
            return f"{owner} a file of {status.st_size} bytes {status.st_ino} {status.st_ctime_ns}"
        return f"{owner} {_digest(path)}"
    except FileNotFoundError:
        return GONE
    except OSError as error:
        return _unlike(error)


def _digest(path: Path) -> str:
    # What is in a sandbox may be replaced under our hands: a link there leads out of it, a pipe would block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
        return digest.hexdigest()
