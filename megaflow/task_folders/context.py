"""What an image is built from: a folder with a Dockerfile, named by what is in it."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import IO, cast

from megaflow.errors import FailedPrecondition, NotFound
from megaflow.task_folders.dockerfile import check_dockerfile
from megaflow.task_folders.files import read_text, walk

__all__ = ["REPOSITORY", "BuildContext"]

# Of the images that are built from tasks; the tag says from what.
REPOSITORY = "megaflow-task"

# Bytes at the end of a tar; Python's has more, to fill a tape's record.
_END = 2 * tarfile.BLOCKSIZE
_BLOCK = 1 << 20


class BuildContext:
    """A folder with a Dockerfile.

    Attributes:
        folder: where it is.
        image: the name of what comes of it: the same for the same content, wherever that lies.

    Raises:
        NotFound: there is no Dockerfile.
        InvalidArgument: it is none, or a file leads out of the folder; names the file and the line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "Dockerfile"
        if not path.is_file():
            raise NotFound(f"{path}: no such file; an image is built from a Dockerfile")
        check_dockerfile(path, read_text(path))
        self.image = _named(folder)

    def packed(self) -> IO[bytes]:
        """The folder as a tar, equal for equal content: owners and times are left out.

        Nothing follows its end: an engine that has read all of it sees when its client goes.

        Returns:
            A temporary file, at its beginning; it goes once it is closed.

        Raises:
            FailedPrecondition: it is no longer what `image` is named by.
        """
        packed = tempfile.TemporaryFile(prefix="megaflow-")  # noqa: SIM115  # the caller's to close
        try:
            with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
                if _named(self.folder, archive) != self.image:
                    raise FailedPrecondition(
                        f"{self.folder}: it has changed since it was read; what is built on the way would have "
                        "the wrong name: leave it alone while its image is built"
                    )
                end = archive.offset
            packed.truncate(end + _END)
            packed.seek(0)
        except BaseException:
            packed.close()
            raise
        return packed


class _Passing:
    """What is read of a file, a block at a time, hashed on the way."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self.digest = hashlib.sha256()
        self.left = os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < min(size, self.left):
            raise FailedPrecondition(
                f"{self._path}: it became shorter while it was read; leave it alone while its image is built"
            )
        self.left -= len(data)
        self.digest.update(data)
        return data


def _named(folder: Path, archive: tarfile.TarFile | None = None) -> str:
    """The name of what comes of a folder, each file of it read once: into an archive, where one is given."""
    digest = hashlib.sha256()
    for name, path in walk(folder):
        kind, content = _entry(name, path, archive)
        digest.update(f"{kind} {content} {name!r}\n".encode())
    return f"{REPOSITORY}:{digest.hexdigest()[:24]}"


def _entry(name: str, path: Path, archive: tarfile.TarFile | None) -> tuple[str, str]:
    """What is at a path, and the digest of what it says."""
    member = tarfile.TarInfo(name)
    content, kind = b"", "folder"
    if path.is_symlink():
        member.type, member.linkname, kind = tarfile.SYMTYPE, os.readlink(path), "link"
        content = member.linkname.encode()
    elif path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    else:
        return _file(member, path, archive)
    if archive is not None:
        archive.addfile(member)
    return kind, hashlib.sha256(content).hexdigest()


def _file(member: tarfile.TarInfo, path: Path, archive: tarfile.TarFile | None) -> tuple[str, str]:
    with path.open("rb") as opened:
        is_program = os.fstat(opened.fileno()).st_mode & stat.S_IXUSR
        passing = _Passing(path, opened)
        member.mode, member.size = 0o755 if is_program else 0o644, passing.left
        if archive is not None:
            archive.addfile(member, cast(IO[bytes], passing))
        else:
            while passing.left:
                passing.read(min(_BLOCK, passing.left))
    return "program" if is_program else "file", passing.digest.hexdigest()
