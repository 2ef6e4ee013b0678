"""Callables by way of a private folder: named by their bytes, and nothing but these names is opened."""

from __future__ import annotations

import hashlib
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from megaflow.code import CodeFolder
from megaflow.errors import InvalidArgument


@pytest.fixture
def store(tmp_path: Path) -> CodeFolder:
    folder = tmp_path / "code"
    folder.mkdir(mode=0o700)
    return CodeFolder(folder)


def test_what_is_put_is_loaded(store: CodeFolder, tmp_path: Path) -> None:
    offset = 3

    def add(number: int) -> int:
        return number + offset

    name = store.put(add, path="env_id")
    assert store.load(name)(4) == 7
    (file,) = (tmp_path / "code").iterdir()
    assert file.name == name == hashlib.sha256(file.read_bytes()).hexdigest()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_same_thing_is_one_file(store: CodeFolder, tmp_path: Path) -> None:
    things = [{"size": (3, 4)}] * 20
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda thing: store.put(thing, path="env_kwargs"), things))
    assert {file.name for file in (tmp_path / "code").iterdir()} == names
    assert len(names) == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "../" + "0" * 61,
        "/etc/passwd",
        "0" * 63,
        "0" * 65,
        "A" * 64,
        "0" * 63 + "/",
        "٠" * 64,
    ],
)
def test_what_is_no_name_of_a_file_there_is_not_opened(name: str, store: CodeFolder) -> None:
    with pytest.raises(InvalidArgument, match="is not the name of a file"):
        store.load(name)


def test_a_name_that_is_not_there(store: CodeFolder) -> None:
    with pytest.raises(InvalidArgument, match="is not in the code folder of this server"):
        store.load("0" * 64)


def test_a_file_that_is_not_what_it_is_named_is_not_unpickled(
    store: CodeFolder, tmp_path: Path
) -> None:
    loaded: list[Any] = []

    class Trap:
        def __reduce__(self) -> Any:
            return (loaded.append, (1,))

    trap = tmp_path / "code" / store.put(Trap(), path="x")
    trap.rename(tmp_path / "code" / ("0" * 64))
    with pytest.raises(InvalidArgument, match="does not have this SHA-256"):
        store.load("0" * 64)
    assert loaded == []


def test_what_cannot_be_pickled_is_named_with_the_way_out(
    store: CodeFolder, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        store.put({"lock": threading.Lock()}, path="per_env_kwargs[3]")
    assert caught.value.message.startswith("per_env_kwargs[3]: {'lock': <unlocked")
    assert "TypeError" in caught.value.message
    assert "inside the environment's constructor" in caught.value.message
    assert list((tmp_path / "code").iterdir()) == []
