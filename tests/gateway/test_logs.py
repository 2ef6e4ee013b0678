"""Log files of a server: each is bounded, few are kept, and the last lines are always at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from megaflow_server.gateway.logs import KEPT, rotate, tidy
from megaflow_server.launch import log_tail, older_log

LIMIT = 10_000


def test_a_log_is_begun_anew_under_its_writers_hands(tmp_path: Path) -> None:
    log = tmp_path / "worker-0-1.log"
    with subprocess.Popen(
        [sys.executable, "-S", "-u", "-c", "for line in open(0): print(line, end='')"],
        stdin=subprocess.PIPE,
        stdout=os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        text=True,
        bufsize=1,
    ) as writer:
        assert writer.stdin is not None
        written = 0
        for number in range(2000):
            writer.stdin.write(f"line {number}\n")
            written += len(f"line {number}\n")
            if number == 1500:
                while log.stat().st_size < written:  # until all of it is there
                    pass
                tidy(tmp_path, {log}, limit=LIMIT)
                assert log.stat().st_size == 0
        writer.stdin.close()
        writer.wait()
    lines = log.read_text().splitlines()
    assert lines == [f"line {number}" for number in range(1501, 2000)]
    older = older_log(log).read_text()
    assert len(older) == LIMIT
    assert older.endswith("\nline 1500\n")
    assert {path.name for path in tmp_path.iterdir()} == {log.name, older_log(log).name}
    assert older_log(log).stat().st_mode & 0o077 == 0


def test_a_small_log_stays_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_bytes(b"x" * LIMIT)
    tidy(tmp_path, (), limit=LIMIT)
    assert log.stat().st_size == LIMIT
    assert list(tmp_path.iterdir()) == [log]


def test_the_last_lines_are_there_right_after_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "worker-0-1.log"
    log.write_text("".join(f"line {number}\n" for number in range(5000)))
    before = log_tail(log)
    assert before.endswith("line 4999")
    rotate(log, LIMIT)
    assert log_tail(log) == before
    with log.open("a") as file:
        file.write("the end\n")
    assert log_tail(log).endswith("line 4999\nthe end")
    assert len(log_tail(log).splitlines()) == 50


def test_of_workers_that_are_gone_a_few_logs_are_kept(tmp_path: Path) -> None:
    gateway, current = tmp_path / "gateway.log", tmp_path / "worker-0-999.log"
    logs = [tmp_path / f"worker-0-{number}.log" for number in range(KEPT + 5)]
    for age, log in enumerate([gateway, current, *logs]):
        log.write_text("x")
        older_log(log).write_text("x")
        os.utime(log, (age, age))
    tidy(tmp_path, {current}, limit=LIMIT)
    kept = [gateway, current, *logs[5:]]
    assert set(tmp_path.iterdir()) == {*kept, *map(older_log, kept)}


def test_a_folder_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    tidy(tmp_path / "nothing", (), limit=LIMIT)
