"""The detached local server: started once, found again, kept running, and ended when idle. Real processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import megaflow
from commands import run_command
from megaflow.errors import FailedPrecondition, InvalidArgument, Unavailable
from megaflow_server.jobs import local
from megaflow_server.jobs.local import locked, running_server, use_local_server

TASK = megaflow.Task("CartPole-v1", "random")
# More than any runner has: it stays in the queue.
HUGE = megaflow.Resources(requests=megaflow.Amount(cpu=1e6))
PATIENCE = 60.0
# Seconds without anything to do after which these servers end.
IDLE = 2.0


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder, and the end of the server in it."""
    with tempfile.TemporaryDirectory(prefix="mf-") as name:
        monkeypatch.setenv("MEGAFLOW_STATE", name)
        yield Path(name)
        if running_server() is not None:
            os.kill(pid(), signal.SIGTERM)
        eventually(lambda: running_server() is None)


def pid() -> int:
    return int(json.loads((local.folder() / "server.json").read_text())["pid"])


def eventually(true: Callable[[], bool]) -> None:
    latest = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < latest
        time.sleep(0.05)


def lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def commands(of: int) -> dict[int, list[str]]:
    """The children of a process, and what each was started with."""
    found: dict[int, list[str]] = {}
    for child in Path(f"/proc/{of}/task/{of}/children").read_text().split():
        with contextlib.suppress(OSError):
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().split("\0")
    return found


def children(of: int) -> list[int]:
    return [child for child, command in commands(of).items() if "serve" in command]


def concurrencies(of: int) -> list[str]:
    """Of its runners."""
    return [
        command[command.index("--concurrency") + 1]
        for command in commands(of).values()
        if "--concurrency" in command
    ]


@pytest.mark.long
def test_as_many_run_at_once_as_was_said_last(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    with use_local_server(concurrency=3) as server, megaflow.Client(server.address) as client:
        eventually(lambda: concurrencies(pid()) == ["3"])
        with use_local_server():
            pass
        slow = client.submit([megaflow.Task("CartPole-v1", "runner_environments:Waiting")])
        eventually(lambda: slow.status().states.get("running") == 1)
        with use_local_server(concurrency=5):
            # What runs goes on, and others begin beside it.
            eventually(lambda: sorted(concurrencies(pid())) == ["3", "5"])
            (quick,) = client.submit([TASK]).results(timeout=PATIENCE)
            assert quick.valid
            assert [event.fence for event in client.why(f"{slow.id}/0").events][-1] == 1
            slow.cancel()
            eventually(lambda: concurrencies(pid()) == ["5"])


@pytest.mark.long
def test_it_ends_when_it_is_told_to(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(capsys, "stop").out == "No local server runs.\n"
    with use_local_server() as server, megaflow.Client(server.address) as client:
        job = client.submit([replace(TASK, resources=HUGE)])
        number = pid()
    refused = run_command(capsys, "stop")
    assert (refused.status, "it has 1 tasks" in refused.err) == (1, True)
    assert run_command(capsys, "stop", "--force").out == "The local server has ended.\n"
    eventually(lambda: not lives(number))
    with use_local_server() as again, megaflow.Client(again.address) as client:
        assert again.started
        client.job(job.id).cancel()
    assert run_command(capsys, "stop").status == 0


def test_an_agent_that_there_is_not_is_refused_before_anything_starts(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"env": "CartPole-v1"}\n')
    refused = run_command(capsys, "run", "-d", str(tasks), "-a", "randm")
    assert (refused.status, "did you mean 'random'?" in refused.err) == (2, True)
    assert running_server() is None


@pytest.mark.long
def test_it_is_started_once_found_again_and_ends_when_idle(state: Path) -> None:
    with use_local_server(idle=IDLE) as first:
        assert first.started
        with use_local_server(idle=IDLE) as second:
            assert not second.started
            assert second.address == first.address
        with megaflow.Client(first.address) as client:
            job = client.submit([replace(TASK, resources=HUGE)])
        number = pid()
    time.sleep(2 * IDLE)
    assert lives(number)  # there is a task to do
    with megaflow.Client(first.address) as client:
        client.job(job.id).cancel()
    eventually(lambda: not lives(number))
    assert running_server() is None
    assert not (local.folder() / "s").exists()
    with use_local_server(idle=IDLE) as again:
        assert again.started
        with megaflow.Client(again.address) as client:
            assert client.job(job.id).status().cancelled  # its store has outlived it


def environments(of: int, *wanted: str) -> list[str]:
    """What those of its children were started with that have one of these arguments."""
    found = []
    for child, command in commands(of).items():
        if set(wanted) & set(command):
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{child}/environ").read_text())
    return found


@pytest.mark.long
def test_keys_of_models_are_the_runners_alone_and_others_take_another_server(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_KEY", "sk-one")
    with use_local_server(keys=["MODEL_KEY"]) as first:
        number = pid()
        eventually(lambda: len(environments(number, "serve", "runner")) == 2)
        assert "sk-one" in environments(number, "runner")[0]
        assert "sk-one" not in environments(number, "serve")[0]
        monkeypatch.setenv("MODEL_KEY", "sk-two")
        with use_local_server():  # whoever needs no key
            pass
        with (
            pytest.raises(FailedPrecondition, match=r"another command uses it.*as api_key_file"),
            use_local_server(keys=["MODEL_KEY"]),
        ):
            pytest.fail("its runner has the old key")
    with megaflow.Client(first.address) as client:
        job = client.submit([replace(TASK, resources=HUGE)])
        with (
            pytest.raises(FailedPrecondition, match=r"still has tasks.*`megaflow stop --force`"),
            use_local_server(keys=["MODEL_KEY"]),
        ):
            pytest.fail("its runner has the old key")
        job.cancel()
    with use_local_server(keys=["MODEL_KEY"]) as second:
        assert second.started
        eventually(lambda: "sk-two" in "".join(environments(pid(), "runner")))
    assert not lives(number)


def test_several_that_come_at_once_start_one(state: Path) -> None:
    started: list[bool] = []

    def use() -> None:
        with use_local_server() as server:
            started.append(server.started)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(started) == [False, False, False, True]


@pytest.mark.long
def test_whoever_uses_it_keeps_it(state: Path) -> None:
    with use_local_server(idle=0.5) as server:
        number = pid()
        time.sleep(3)
        assert lives(number)
        with megaflow.Client(server.address) as client:
            assert client.jobs() == []


@pytest.mark.long
def test_killed_it_is_there_again_with_its_tasks(state: Path) -> None:
    with use_local_server() as server, megaflow.Client(server.address) as client:
        job = client.submit([TASK] * 3).id
        (serving,) = children(pid())
        os.kill(serving, signal.SIGKILL)
        assert client.job(job).status().total == 3  # asked again until it is back
        supervisor = pid()
        (serving,) = children(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not lives(serving))
    with use_local_server() as again, megaflow.Client(again.address) as client:
        assert again.started
        assert client.job(job).status().total == 3


def test_one_that_does_not_start_says_why(state: Path) -> None:
    (local.folder() / "tasks.db").mkdir(parents=True)
    with (
        pytest.raises(Unavailable, match=r"(?s)the local server did not start: .*tasks\.db"),
        use_local_server(),
    ):
        pytest.fail("it has started")
    assert running_server() is None


def test_a_state_folder_that_is_no_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, said in (
        (tmp_path / "file" / "x", "cannot be made"),
        (tmp_path / ("x" * 120), "too long"),
    ):
        monkeypatch.setenv("MEGAFLOW_STATE", str(place))
        with pytest.raises(InvalidArgument, match=rf"{said}.*MEGAFLOW_STATE"), use_local_server():
            pytest.fail("it has started")


def test_what_a_store_takes_is_not_installed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_spec", lambda name: None if name == "alembic" else name)
    with (
        pytest.raises(InvalidArgument, match=r"takes alembic: pip install 'megaflow\[server\]'"),
        use_local_server(),
    ):
        pytest.fail("it has started")


def test_locks(tmp_path: Path) -> None:
    file = tmp_path / "l"
    with locked(file, fcntl.LOCK_SH):
        with locked(file, fcntl.LOCK_SH):  # shared by as many as like
            pass
        with pytest.raises(BlockingIOError), locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            pytest.fail("two have it")
    with locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
        pass
