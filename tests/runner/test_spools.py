"""What a runner that was killed had written for a store is uploaded by the next one, and by one alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megaflow.errors import InvalidArgument
from megaflow_server.runner.spools import Spool

URL = "s3://bucket/runs"
HOLDS = """
import sys
from pathlib import Path
from megaflow_server.runner.spools import Spool
spool = Spool(Path(sys.argv[1]), sys.argv[2])
(spool.own / "written").touch()
print(spool.own, flush=True)
sys.stdin.read()
"""


def test_what_is_left_is_taken_once_its_owner_has_died(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path), URL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        beside = Spool(tmp_path, URL)
        assert beside.left == []
        beside.close()
        process.kill()
    elsewhere = Spool(tmp_path, "s3://bucket/others")
    assert elsewhere.left == []
    first, second = Spool(tmp_path, URL), Spool(tmp_path, URL)
    assert (first.left, second.left) == ([theirs], [])
    first.remove(theirs)
    for spool in (elsewhere, first, second):
        spool.close()
    assert [path for path in tmp_path.rglob("*") if path.parent != tmp_path] == []


def test_what_could_not_be_uploaded_is_left_to_the_next(tmp_path: Path) -> None:
    first = Spool(tmp_path, URL)
    (first.own / "written").touch()
    first.close()
    second = Spool(tmp_path, URL)
    assert second.left == [first.own]
    second.close()
    assert (first.own / "written").is_file()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="MEGAFLOW_STATE"):
        Spool(tmp_path / "file", URL)
