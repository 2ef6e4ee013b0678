from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import Command
from trajectory_samples import agentic, classic, ends, write


def test_exports_to_a_file_or_to_standard_output(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "job" / "a.mft", agentic())
    write(tmp_path / "job" / "g.mft", classic())
    done = command("export", str(tmp_path / "job"))
    assert (done.status, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert {row["trajectory"] for row in rows} == {"a", "g"}
    out = tmp_path / "out.jsonl"
    done = command("export", str(tmp_path / "job"), "--format", "sharegpt", "--out", str(out))
    assert (done.status, done.out) == (0, "")
    assert done.err == f"Exported 2 trajectories to {out}.\n"
    assert len(out.read_text().splitlines()) == 1


def test_what_has_no_conversations_is_told(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "g.mft", classic())
    out = tmp_path / "out.jsonl"
    done = command("export", str(tmp_path / "g.mft"), "--format", "sharegpt", "--out", str(out))
    assert done.status == 0
    assert "There is nothing in it: none of them has what sharegpt is of." in done.err


def test_a_torn_tail_is_a_warning_and_damage_a_no(command: Command, tmp_path: Path) -> None:
    data, places = ends(classic())
    path = tmp_path / "g.mft"
    path.write_bytes(data[:-3])
    arguments = ("export", str(path), "--format", "jsonl", "--out", str(tmp_path / "out"))
    done = command(*arguments)
    assert done.status == 0
    assert "Warning" in done.err
    assert "torn tail" in done.err
    damaged = bytearray(data)
    damaged[places[1] - 1] ^= 1
    path.write_bytes(damaged)
    done = command(*arguments)
    assert done.status == 1
    assert f"damaged: {places[1] - places[0]} bytes from byte {places[0]} on" in done.err
    assert len((tmp_path / "out").read_text().splitlines()) == len(classic())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("./none", "--format", "jsonl"), "no trajectory (*.mft) there"),
        (("mon", "--format", "csv"), "one of jsonl, parquet, atif, sharegpt"),
        (("mon", "--format", "atif"), "give out"),
        (("b.mft", "--format", "jsonl"), "not a trajectory file"),
    ],
)
def test_misuse_is_told(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mft", agentic())
    (tmp_path / "b.mft").write_text("something else altogether")
    done = command("export", *arguments)
    assert done.status == 2
    assert message in done.err
