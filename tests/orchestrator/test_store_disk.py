"""A disk that is full, a real one: a small file system in memory, in a namespace that nobody else sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAM = """
import random, sys, time
from pathlib import Path
from megaflow.errors import Unavailable
from megaflow_server.orchestrator.commands import AddTasks, CreateJob, NewTask
from megaflow_server.orchestrator.store.opening import open_store
from postgres_server import PostgresServer
from store_life import asker

disk = Path(sys.argv[1])
with PostgresServer(disk) as server:
    store = open_store(server.url)
    ask = asker(store)
    ask(CreateJob("j", "ann", 1))
    (disk / "ballast").write_bytes(bytes(24 << 20))
    told, full = 0, False
    chance = random.Random(1)  # what is drawn cannot be compressed
    while not full:
        new = tuple(NewTask(told + one, chance.randbytes(50_000).hex()) for one in range(10))
        try:
            ask(AddTasks("j", "ann", new))
            told += len(new)
        except Unavailable:
            full = True
        assert told < 100_000
    assert told > 0
    (disk / "ballast").unlink()
    server.revive()
    end = time.monotonic() + 30
    while True:
        try:
            there = sum(count for _, _, count in store.counts())
            ask(CreateJob("k", "ann", 1), AddTasks("k", "ann", (NewTask(0, "{}"),)))
            break
        except Unavailable:
            assert time.monotonic() < end
            time.sleep(0.1)
    # The transaction that failed may have happened: whoever asked was told that this is unknown.
    assert there in (told, told + 10), (there, told)
    store.close()
print("well")
"""


@pytest.mark.requires("postgres", "tmpfs")
@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as a user of its own")
def test_a_full_disk_under_postgresql_loses_nothing() -> None:
    with tempfile.TemporaryDirectory(prefix="megaflow-disk-") as folder:
        disk = Path(folder)
        disk.chmod(0o755)  # PostgreSQL's own user reaches what is in it
        program = (
            f"mount -t tmpfs -o size=120m,mode=755 tmpfs {disk} && exec {sys.executable} - {disk}"
        )
        unshare = shutil.which("unshare")
        assert unshare is not None
        made = subprocess.run(
            [unshare, "--mount", "sh", "-c", program],
            input=PROGRAM,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        )
    assert made.stdout == "well\n", made.stderr
