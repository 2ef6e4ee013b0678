"""Sessions that ended as a whole: the client was silent for a lease, or the server was started again."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import megaflow
from commands import SERVE, Served
from leftovers import Place, place
from megaflow.vector_options import OnLost

# Seconds until a client finds a server that was started again.
RECOVERY = 30.0
CONFIG = "[server]\nlease = 1.0\n"
SUSPENDED = """
import sys
import numpy as np
import megaflow

env = megaflow.make("CartPole-v1", server=sys.argv[1])
envs = megaflow.make_vec("CartPole-v1", 4, server=sys.argv[1], on_lost="truncate")
env.reset(seed=1), envs.reset(seed=1)
print("ready", flush=True)
sys.stdin.readline()
try:
    env.step(0)
except megaflow.SessionLost as loss:
    assert "lease" in str(loss), loss
env.reset(seed=1)
env.step(0)
actions = np.zeros(4, dtype=np.int64)
_, _, _, truncations, infos = envs.step(actions)
assert truncations.all() and infos["lost"].all(), (truncations, infos)
for _ in range(3):
    _, _, _, truncations, infos = envs.step(actions)
    assert not truncations.any() and "lost" not in infos, (truncations, infos)
env.close(), envs.close()
print("done", flush=True)
"""


SLOW_TO_BUILD = """
import os
import time
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class SlowToBuild(CartPoleEnv):
    def __init__(self):
        with open(os.environ["BUILDS"], "a") as builds:
            print(os.getpid(), file=builds, flush=True)
        time.sleep(1.0)
        super().__init__()

gym.register("SlowToBuild-v0", SlowToBuild)
"""


def serve(
    here: Place, workers: str = "2", *more: str, variables: Mapping[str, str] | None = None
) -> Served:
    config = here.folder / "megaflow.toml"
    config.write_text(CONFIG)
    address = f"unix:{here.folder}/g.sock"
    options = ("--listen", address, "--workers", workers, "--config", str(config))
    return Served(here.start(*SERVE, *options, *more, variables=variables), 1)


@pytest.mark.long
def test_a_client_that_was_suspended_goes_on_with_new_sessions() -> None:
    with place() as here:
        served = serve(here)
        client = here.start(str(here.script("script.py", SUSPENDED)), served.addresses[0])
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        client.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        client.send_signal(signal.SIGCONT)
        out, errors = client.communicate("\n", timeout=60)
        assert (out, client.returncode) == ("done\n", 0), errors
        assert served.end() == 0
        here.assert_nothing_left()


def stepped(envs: Any, actions: Any) -> Any:
    deadline = time.monotonic() + RECOVERY
    while True:
        try:
            return envs.step(actions)
        except megaflow.Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def reset(envs: Any) -> None:
    """Resets; as a user would, once more where gRPC has not found the server again yet, on a busy machine."""
    deadline = time.monotonic() + RECOVERY
    while True:
        try:
            envs.reset()
            return
        except megaflow.Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("on_lost", ["raise", "truncate"])
def test_a_vector_goes_on_when_its_server_was_started_again(on_lost: OnLost) -> None:
    with place() as here:
        served = serve(here)
        envs = megaflow.make_vec("CartPole-v1", 4, server=served.addresses[0], on_lost=on_lost)
        envs.reset(seed=1)
        actions = np.zeros(4, dtype=np.int64)
        served.process.kill()
        served.process.communicate()
        again = serve(here)
        if on_lost == "raise":
            with pytest.raises(megaflow.SessionLost) as caught:
                envs.step(actions)
            assert caught.value.indices == (0, 1, 2, 3)
            reset(envs)
        else:
            assert stepped(envs, actions)[3].all()
        for _ in range(2):
            assert not envs.step(actions)[3].any()
        envs.close()
        assert again.end() == 0


def received(envs: Any) -> Any:
    """Receives by calls that are each shorter than it takes to build the environments."""
    deadline = time.monotonic() + RECOVERY
    while True:
        try:
            return envs.recv(timeout=0.2)
        except (TimeoutError, multiprocessing.TimeoutError, megaflow.Unavailable):
            assert time.monotonic() < deadline


@pytest.mark.long
def test_calls_shorter_than_the_building_build_one_session_and_get_it() -> None:
    with place() as here:
        here.script("slow_to_build.py", SLOW_TO_BUILD)
        builds = here.folder / "builds"
        options = ("2", "--import", "slow_to_build")
        environ = {"BUILDS": str(builds), "PYTHONPATH": str(here.folder)}
        served = serve(here, *options, variables=environ)
        envs: Any = megaflow.make_vec(
            "SlowToBuild-v0", 2, server=served.addresses[0], on_lost="truncate"
        )
        actions, everyone = np.zeros(2, dtype=np.int64), np.arange(2)
        envs.reset(seed=1)
        envs.send(actions, everyone)
        received(envs)
        served.process.kill()
        served.process.communicate()
        builds.unlink()
        again = serve(here, *options, variables=environ)
        envs.send(actions, everyone)
        assert received(envs)[3].all()
        envs.send(actions, everyone)
        assert not received(envs)[3].any()
        envs.close()
        assert again.end() == 0
        assert len(builds.read_text().splitlines()) == 2


def test_another_number_of_workers_is_said() -> None:
    with place() as here:
        served = serve(here)
        envs = megaflow.make_vec("CartPole-v1", 4, server=served.addresses[0])
        envs.reset(seed=1)
        served.process.kill()
        served.process.communicate()
        again = serve(here, workers="1")
        with pytest.raises(megaflow.SessionLost):
            envs.step(np.zeros(4, dtype=np.int64))
        with pytest.raises(megaflow.SessionLost, match="other parts: make the environment anew"):
            reset(envs)
        envs.close(terminate=True)
        assert again.end() == 0
