"""Folders that somebody has filled with what is hard to remove."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaflow_server import removal
from megaflow_server.removal import remove_tree


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A folder that every user may get to; those of the other tests are in one of root's."""
    folder = Path(tempfile.mkdtemp(prefix="megaflow-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_what_is_deeper_than_a_path_is_long(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    folder = os.open(tmp_path / "one", os.O_RDONLY)
    for _ in range(1500):
        for name in ("a" * 200, "beside"):
            os.mkdir(name, dir_fd=folder)
        deeper = os.open("a" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    remove_tree(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


def test_a_link_goes_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "f").write_text("1")
    (tmp_path / "one" / "in").mkdir(parents=True)
    for place in ("one/link", "one/in/link"):
        (tmp_path / place).symlink_to(tmp_path / "kept")
    os.mkfifo(tmp_path / "one" / "pipe")
    remove_tree(tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "f").read_text() == "1"
    remove_tree(tmp_path / "absent")
    (tmp_path / "link").symlink_to("kept")
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "link")


def test_somebody_else_may_remove_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("one/a/b", "one/c", "one/d/e"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "f").write_text("1")
    (tmp_path / "one" / "f").write_text("1")
    listed, unlink = removal._unlink_files, os.unlink

    def late(folder: int) -> list[str]:
        """One of those that were listed is gone by now."""
        names = listed(folder)
        for name in names[:1]:
            shutil.rmtree(f"/proc/self/fd/{folder}/{name}", ignore_errors=True)
        return names

    def too_late(name: str, *, dir_fd: int | None = None) -> None:
        for _ in range(2):
            unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(removal, "_unlink_files", late)
    monkeypatch.setattr(os, "unlink", too_late)
    remove_tree(tmp_path / "one")
    assert not (tmp_path / "one").exists()


LOCKED = """
os.setresuid(*[int(sys.argv[1])] * 3)
for name in ("a", "a/b", "a/b/c", "d"):
    os.mkdir(f"one/{name}")
    open(f"one/{name}/f", "w").close()
for name, mode in (("a/b/c", 0), ("a/b", 0o400), ("a", 0o100), ("d", 0o500), ("", 0)):
    os.chmod(f"one/{name}", mode)
remove_tree(Path("one"))
print(os.getuid(), os.listdir("."))
"""


def test_what_its_owner_has_locked(anybodys: Path) -> None:
    """As a user whom modes mean something to."""
    user = os.getuid() or 65534
    (anybodys / "one").mkdir()
    os.chown(anybodys / "one", user, -1)
    program = f"import sys\n{Path(removal.__file__).read_text()}\n{LOCKED}"
    program = program.replace("from __future__ import annotations\n", "")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(user)],
        cwd=anybodys,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{user} []\n", "")
