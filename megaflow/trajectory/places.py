"""Where trajectories lie: a local folder, or any store that fsspec reaches, and what is in it.

A trajectory is one file, `NAME.mft`, or, in a store that cannot append, a folder `NAME.mft.parts` of objects, each
named by the byte at which it begins in the file that they make up. Blobs lie beside either.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

__all__ = ["PARTS", "SUFFIX", "Source", "Store", "find", "source_at", "store_at"]

SUFFIX: Final = ".mft"
PARTS: Final = ".mft.parts"


class Store(Protocol):
    """Files by name: `/` separates folders."""

    def sizes(self, folder: str) -> dict[str, int]:
        """The size of each file in a folder, by its path; empty where there is no folder."""
        ...

    def read(self, path: str, start: int, size: int) -> bytes:
        """At most that many bytes; fewer at the end, none past it. Raises NotFound."""
        ...

    def walk(self, folder: str) -> Iterator[str]:
        """The paths of all files below a folder, or the path itself where it is a file."""
        ...

    def is_file(self, path: str) -> bool:
        """Whether there is such a file."""
        ...


class LocalFiles:
    """Files of this machine."""

    def sizes(self, folder: str) -> dict[str, int]:
        try:
            return {each.path: each.stat().st_size for each in os.scandir(folder)}
        except FileNotFoundError:
            return {}

    def read(self, path: str, start: int, size: int) -> bytes:
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                return file.read(size) or b""
        except FileNotFoundError:
            raise NotFound(f"there is no file {path}") from None
        except OSError as error:
            raise Unavailable(f"{path} cannot be read: {error.strerror}") from None

    def walk(self, folder: str) -> Iterator[str]:
        if self.is_file(folder):
            yield folder
            return
        for root, folders, files in os.walk(folder):
            folders.sort()
            yield from (os.path.join(root, name) for name in sorted(files))

    def is_file(self, path: str) -> bool:
        return os.path.isfile(path)


class FsspecFiles:
    """Files of a store that fsspec reaches."""

    def __init__(self, filesystem: Any) -> None:
        self._files = filesystem

    def sizes(self, folder: str) -> dict[str, int]:
        self._files.invalidate_cache()
        try:
            listed = self._files.ls(folder, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Unavailable(f"{folder} cannot be listed: {error}") from error
        return {each["name"]: each["size"] for each in listed if each["type"] == "file"}

    def read(self, path: str, start: int, size: int) -> bytes:
        try:
            if start >= self._files.size(path):
                return b""
            return bytes(self._files.cat_file(path, start=start, end=start + size))
        except FileNotFoundError:
            raise NotFound(f"there is no object {path}") from None
        except OSError as error:
            raise Unavailable(f"{path} cannot be read: {error}") from error

    def walk(self, folder: str) -> Iterator[str]:
        yield from sorted(self._files.find(folder))

    def is_file(self, path: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._files.isfile(path))


def store_at(url: str) -> tuple[Store, str]:
    """The store that a path or a URL is of, and the path in it.

    Raises:
        FailedPrecondition: fsspec, or what it needs for this kind of store, is not installed.
        InvalidArgument: fsspec knows no such store.
    """
    if "://" not in url:
        return LocalFiles(), url
    filesystem, path = fsspec_at(url)
    return FsspecFiles(filesystem), path


def fsspec_at(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. Raises as `store_at` does."""
    try:
        import fsspec
    except ImportError:
        raise FailedPrecondition(
            f'{url} is not on this machine: install "megaflow[storage]" to reach it'
        ) from None
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise FailedPrecondition(f"{url} needs another package: {error}") from None
    except ValueError as error:
        raise InvalidArgument(f"{url} is no place that fsspec knows: {error}") from None
    return filesystem, str(path)


class Source:
    """The bytes of one trajectory, from any place in it, and the blobs beside it."""

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._parts = path.endswith(PARTS)
        self._begins: dict[int, tuple[str, int]] = {}

    def read(self, start: int, size: int) -> bytes:
        """At most that many bytes; none where the end is, so far. Raises NotFound."""
        if not self._parts:
            return self._store.read(self._path, start, size)
        part = self._part_of(start)
        if part is None:
            self._list()
            part = self._part_of(start)
        if part is None:
            if later := [begin for begin in self._begins if begin > start]:
                raise NotFound(
                    f"{self._path}: the part from byte {start} to byte {min(later)} is missing"
                )
            if not self._begins:
                raise NotFound(f"there is no part of a trajectory in {self._path}")
            return b""
        begin, path = part
        return self._store.read(path, start - begin, size)

    def blob(self, path: str) -> bytes:
        """A blob's bytes, by its path from the trajectory's folder. Raises NotFound."""
        folder = self._path.rstrip("/").rpartition("/")[0]
        whole = f"{folder}/{path}" if folder else path
        return b"".join(iter(_Pieces(self._store, whole), b""))

    def _part_of(self, start: int) -> tuple[int, str] | None:
        for begin, (path, size) in self._begins.items():
            if begin <= start < begin + size:
                return begin, path
        return None

    def _list(self) -> None:
        self._begins = {}
        for path, size in sorted(self._store.sizes(self._path).items()):
            name = path.rpartition("/")[2]
            if name.isdecimal():
                self._begins[int(name)] = (path, size)


class _Pieces:
    def __init__(self, store: Store, path: str) -> None:
        self._store, self._path, self._at = store, path, 0

    def __call__(self) -> bytes:
        piece = self._store.read(self._path, self._at, 1 << 20)
        self._at += len(piece)
        return piece


def source_at(url: str | os.PathLike[str]) -> Source:
    """The trajectory at a path or URL: its file or its parts, with the suffix `.parts` or without."""
    store, path = store_at(os.fspath(url))
    if not path.endswith(PARTS) and not store.is_file(path) and store.sizes(path + ".parts"):
        path += ".parts"
    return Source(store, path)


def find(url: str | os.PathLike[str]) -> list[str]:
    """The trajectories below a folder, or the one that is named, as paths or URLs for `source_at`, sorted.

    Raises:
        NotFound: there is none.
    """
    text = os.fspath(url)
    store, path = store_at(text)
    prefix = text[: text.index("://") + 3] if "://" in text else ""
    found = set()
    for each in store.walk(path):
        folder = each.rpartition("/")[0]
        if each.endswith(SUFFIX):
            found.add(prefix + each)
        elif folder.endswith(PARTS):
            found.add(prefix + folder)
    if not found and (store.is_file(path) or Path(path).suffix == SUFFIX):
        found.add(text)
    if not found:
        raise NotFound(f"{text}: no trajectory (*{SUFFIX}) there")
    return sorted(found)
