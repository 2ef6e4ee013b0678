from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import closing

import pytest

import megaflow
from commands import SERVE, Refused, Serve
from leftovers import Place

ANY_PORT = ("--listen", "127.0.0.1:0")
ONE_WORKER = ("--workers", "1")
BACKENDS = ("process", "fake")

MODULE = """
import gymnasium as gym

class Mine(gym.Env):
    observation_space = gym.spaces.Discrete(3)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 1, {}

    def step(self, action):
        return 2, 1.0, False, False, {}

gym.register("Mine-v0", entry_point=Mine)
"""


def play(env_id: str, address: str) -> None:
    """A reset and a step."""
    with closing(megaflow.make(env_id, server=address)) as env:
        env.reset(seed=0)
        env.step(env.action_space.sample())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_serves_and_leaves_nothing(
    serve: Serve, place: Place, number: signal.Signals, backend: str
) -> None:
    served = serve(*ANY_PORT, *ONE_WORKER, "--backend", backend)
    play("CartPole-v1", served.addresses[0])
    assert served.end(number) == 0
    place.assert_nothing_left()


def test_the_server_gives_way_to_its_workers(serve: Serve, place: Place) -> None:
    served = serve(*ANY_PORT, *ONE_WORKER)
    threads = [int(name) for name in os.listdir(f"/proc/{served.process.pid}/task")]
    assert {os.sched_getscheduler(one) for one in threads} == {os.SCHED_BATCH}
    (worker,) = place.workers()
    assert os.sched_getscheduler(worker) == os.SCHED_OTHER
    assert served.end() == 0


def test_the_line_says_what_serves(serve: Serve) -> None:
    served = serve(*ANY_PORT, "--workers", "2")
    (address,) = served.addresses
    assert served.lines == [
        f"Serving environments at {address} (2 workers, backend process). Ctrl-C ends it.\n"
    ]
    assert int(address.removeprefix("127.0.0.1:")) > 0


def test_every_worker_is_there_from_the_start(serve: Serve, place: Place) -> None:
    serve(*ANY_PORT, "--workers", "3")
    assert len(place.workers()) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_ends_with_sessions_open(serve: Serve, place: Place, backend: str) -> None:
    served = serve(*ANY_PORT, *ONE_WORKER, "--backend", backend)
    env = megaflow.make("CartPole-v1", server=served.addresses[0])
    env.reset()
    assert served.end(signal.SIGINT) == 0
    place.assert_nothing_left()
    with pytest.raises((megaflow.SessionLost, megaflow.Unavailable)):
        env.step(0)
    env.close()


def test_an_impatient_ctrl_c_is_harmless(serve: Serve, place: Place) -> None:
    served = serve(*ANY_PORT, *ONE_WORKER)
    while served.process.poll() is None:
        served.process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    assert served.ended() == 0
    place.assert_nothing_left()


@pytest.mark.long
def test_a_signal_ends_it_while_workers_start(place: Place) -> None:
    place.script("slow.py", "import time\nopen('importing', 'w').close()\ntime.sleep(3600)\n")
    process = place.start(*SERVE, *ANY_PORT, "--import", "slow")
    while not (place.folder / "importing").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    place.assert_nothing_left()


def test_several_addresses(serve: Serve, place: Place) -> None:
    path = place.folder / "server.sock"
    served = serve(*ANY_PORT, "--listen", f"unix:{path}", *ONE_WORKER, count=2)
    assert served.addresses[1] == f"unix:{path}"
    assert path.stat().st_mode & 0o077 == 0
    for address in served.addresses:
        play("CartPole-v1", address)
    assert served.end() == 0
    assert not path.exists()


def test_a_socket_that_a_killed_server_left_is_taken_over(serve: Serve, place: Place) -> None:
    path = place.folder / "server.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    served = serve("--listen", f"unix:{path}", *ONE_WORKER)
    play("CartPole-v1", served.addresses[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_imported_modules_register_environments(serve: Serve, place: Place, backend: str) -> None:
    place.script("mine.py", MODULE)
    served = serve(*ANY_PORT, *ONE_WORKER, "--import", "mine", "--backend", backend)
    play("Mine-v0", served.addresses[0])


def test_imported_modules_are_found_on_pythonpath(
    place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "elsewhere").mkdir()
    place.script("elsewhere/mine.py", MODULE)
    monkeypatch.setenv("PYTHONPATH", str(place.folder / "elsewhere"), prepend=os.pathsep)
    served = serve(*ANY_PORT, *ONE_WORKER, "--import", "mine")
    play("Mine-v0", served.addresses[0])


def test_names_of_modules_are_taken_only_when_allowed(serve: Serve, place: Place) -> None:
    place.script("mine.py", MODULE)
    strict = serve(*ANY_PORT, *ONE_WORKER)
    with pytest.raises(megaflow.FailedPrecondition, match="--allow-import"):
        play("mine:Mine", strict.addresses[0])
    open_ = serve(*ANY_PORT, *ONE_WORKER, "--allow-import")
    play("mine:Mine", open_.addresses[0])


def test_an_address_in_use(fails_to_start: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)  # which importing megaflow has set here
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = fails_to_start("--listen", address)
    assert said.startswith(f"Error: listen={address!r}: cannot be bound; another process")


def test_a_unix_socket_in_use(fails_to_start: Refused, place: Place) -> None:
    path = place.folder / "server.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        said = fails_to_start("--listen", f"unix:{path}")
    assert "another process" in said
    assert path.exists()


@pytest.mark.parametrize("address", ["0.0.0.0:7447", "[::]:7447", "192.0.2.1", "example.org:1"])
def test_addresses_that_others_can_reach(refused: Refused, address: str) -> None:
    said = refused("--listen", address)
    assert said.startswith(
        f"Error: listen={address!r}: other machines can connect there, which takes"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--backend", "proces"), "did you mean 'process'?"),
        (("--listen", "tcp://127.0.0.1"), "is no gRPC target"),
        (("--workers", "0"), "--workers"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_bad_options(refused: Refused, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(*arguments)


def test_a_file_configures_it_and_options_win(serve: Serve, place: Place) -> None:
    place.script("mine.py", MODULE)
    path = place.folder / "server.sock"
    file = place.script(
        "megaflow.toml",
        f'[server]\nlisten = ["unix:{path}"]\nworkers = 1\nbackend = "process"\nimport = ["mine"]\n',
    )
    served = serve("--config", str(file), "--backend", "fake")
    assert served.lines == [
        f"Serving environments at unix:{path} (1 worker, backend fake). Ctrl-C ends it.\n"
    ]
    play("Mine-v0", served.addresses[0])


def test_the_file_that_is_here_configures_it(serve: Serve, place: Place) -> None:
    path = place.folder / "server.sock"
    file = place.script(
        "megaflow.toml",
        f'[server]\nlisten = ["unix:{path}"]\nworkers = 1\nbackend = "fake"\n',
    )
    served = serve()
    assert served.addresses == [f"unix:{path}"]
    assert served.process.stdout is not None
    assert served.process.stdout.readline() == f"Configured by {file}\n"


def test_a_file_with_an_unknown_key(refused: Refused, place: Place) -> None:
    file = place.script("megaflow.toml", "[server]\nworker = 2\n")
    assert refused("--config", str(file)) == (
        f"Error: {file}: server.worker: unknown key; did you mean server.workers?\n"
    )
