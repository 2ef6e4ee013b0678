"""After SIGKILL of the server itself: nothing is left within five seconds, whatever environments started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import leftovers
from busy import stretched
from commands import SERVE, Served
from leftovers import Place
from megaflow_server.janitor import Janitor
from megaflow_server.marks import new_mark, run_of

# An environment whose processes do their best to live on.
MODULE = """
import os, subprocess, sys
import gymnasium as gym

# Makes itself a daemon, whose parent is gone and whose session is new.
DAEMON = "import os, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(600)"

class Daemons(gym.Env):
    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        python = [sys.executable, "-S", "-c", DAEMON]
        subprocess.run(python, check=True)
        subprocess.run(python, check=True, env={"MEGAFLOW_TEST_MARK": os.environ["MEGAFLOW_TEST_MARK"]})
        subprocess.Popen(["sleep", "600"])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 1, {}

    def step(self, action):
        return 2, 1.0, False, False, {}

    def pids(self):
        return os.getppid(), os.getpid()

gym.register("Daemons-v0", entry_point=Daemons)
"""

# An environment that has a server of its own.
NESTED = """
import gymnasium as gym
import megaflow

class Nested(gym.Env):
    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self.inner = megaflow.make("CartPole-v1")
        self.inner.reset()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 1, {}

    def step(self, action):
        return 2, 1.0, False, False, {}

gym.register("Nested-v0", entry_point=Nested)
"""

NESTING = """
import os, time
import megaflow, nested
env = megaflow.make(nested.Nested)
env.reset()
print("playing", flush=True)
time.sleep(600)
"""

CLIENT = """
import sys, time
import megaflow
if len(sys.argv) > 1:
    env = megaflow.make("Daemons-v0", server=sys.argv[1])
else:
    import daemons
    env = megaflow.make(daemons.Daemons)
env.reset()
print(*env.get_wrapper_attr("pids")(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def here() -> Iterator[Place]:
    with leftovers.place() as place:
        yield place


def playing(here: Place, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """A client with an environment, and its server's process id."""
    client = here.start(str(here.script("client.py", CLIENT)), *arguments)
    assert client.stdout is not None
    printed = client.stdout.readline().split()
    if len(printed) != 2:
        client.kill()
        pytest.fail(f"{printed} {client.communicate()}")
    return client, int(printed[0])


def daemons(here: Place) -> list[int]:
    return [pid for pid, command in here.processes().items() if "os.setsid()" in command]


def test_the_embedded_server_is_killed(here: Place) -> None:
    here.script("daemons.py", MODULE)
    client, server = playing(here)
    assert len(daemons(here)) == 2
    os.kill(server, signal.SIGKILL)
    deadline = time.monotonic() + stretched(leftovers.GONE_WITHIN)
    while here.processes().keys() != {client.pid} or list(here.temporary.iterdir()):
        assert time.monotonic() < deadline, here.left()
        time.sleep(0.02)
    client.kill()
    client.communicate()


@pytest.mark.parametrize("listen", ["unix:{}/sockets/serve.sock", "127.0.0.1:0"])
def test_a_standalone_server_is_killed(here: Place, listen: str) -> None:
    here.script("daemons.py", MODULE)
    sockets = here.folder / "sockets"
    sockets.mkdir()
    where = ("--listen", listen.format(here.folder))
    process = here.start(*SERVE, *where, "--workers", "1", "--import", "daemons")
    client, server = playing(here, Served(process, 1).addresses[0])
    assert server == process.pid
    assert len(daemons(here)) == 2
    client.kill()
    client.communicate()
    process.kill()
    process.communicate()
    here.assert_nothing_left()
    assert list(sockets.iterdir()) == []  # the folder itself is the user's


@pytest.mark.long
@pytest.mark.parametrize("victims", ["worker.main", "embedded import main"])
def test_an_environment_that_has_a_server_of_its_own(here: Place, victims: str) -> None:
    here.script("nested.py", NESTED)
    client = here.start(str(here.script("nesting.py", NESTING)))
    assert client.stdout is not None
    assert client.stdout.readline() == "playing\n"
    for pid, command in here.processes().items():
        if victims in command:
            with suppress(ProcessLookupError):  # it went with another one
                os.kill(pid, signal.SIGKILL)
    client.kill()
    client.communicate()
    here.assert_nothing_left()


def test_nothing_of_it_is_left_after_a_normal_end(here: Place) -> None:
    process = here.start(*SERVE, "--listen", "127.0.0.1:0", "--workers", "1")
    Served(process, 1)
    assert [one for one in here.processes().values() if "janitor" in one]
    process.terminate()
    process.communicate()
    assert here.left() == []


def test_signals_meant_for_the_server_do_not_end_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with Janitor() as janitor:
        janitor.take([file])
        # Its handlers are there once it has read something from its pipe.
        pid = janitor._process.pid
        while Path(f"/proc/{pid}/wchan").exists() and "SigIgn" in (
            status := Path(f"/proc/{pid}/status").read_text()
        ):
            (ignored,) = [line for line in status.splitlines() if line.startswith("SigIgn")]
            if int(ignored.split()[1], 16) >> signal.SIGTERM - 1 & 1:
                break
            time.sleep(0.005)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        time.sleep(0.1)
        assert janitor._process.poll() is None
    assert not file.exists()


def test_what_came_to_a_path_later_stays(tmp_path: Path) -> None:
    mine, others = tmp_path / "a" / "mine", tmp_path / "b" / "others"
    for path in (mine, others):
        path.parent.mkdir()
        path.touch()
    with Janitor() as janitor:
        janitor.take([mine, others], folders=True)
        others.rename(others.with_name("old"))
        others.touch()
    assert not mine.parent.exists()
    assert others.exists()


def test_a_janitor_that_was_killed_harms_nobody(tmp_path: Path) -> None:
    with Janitor() as janitor:
        janitor._process.kill()
        janitor._process.wait()
        janitor.take([tmp_path])
    assert tmp_path.exists()


def test_marks_of_one_server_have_its_run_in_common() -> None:
    first, second = new_mark("a"), new_mark("b")
    assert first.number != second.number
    assert run_of(first.number) == run_of(second.number) is not None
    assert max(first.number, second.number) < 1 << 63
    assert [run_of(number) for number in (-1, 0, 1024, 1 << 62)] == [None] * 4
