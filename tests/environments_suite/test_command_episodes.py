from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.error import ResetNeeded

from megaflow.errors import FailedPrecondition, InvalidArgument, SessionLost
from megaflow.sandbox_proxy import SandboxProxy
from megaflow_envs.commands import SUBMIT
from megaflow_envs.terminal import TerminalEnv
from sandbox_host import SandboxHost
from task_rig import SETTINGS, outcome, submitted, terminal, write_task

pytestmark = pytest.mark.requires("namespaces")


@pytest.fixture
def env(sandbox: SandboxProxy, tmp_path: Path) -> TerminalEnv:
    return terminal(write_task(tmp_path), sandbox, max_steps=8, output_limit=400)


def observed(env: TerminalEnv, command: str) -> str:
    observation, *_ = env.step(command)
    assert env.observation_space.contains(observation), observation
    return observation


def test_the_first_observation_is_the_instruction(env: TerminalEnv) -> None:
    observation, info = env.reset(seed=3)
    assert (observation, info["task"]) == ("Write 42 to /app/answer.\n", env.task.name)
    assert env.observation_space.contains(observation)
    assert env.action_space.contains("ls -l /app | wc -l")


def test_one_shell_for_an_episode(env: TerminalEnv) -> None:
    env.reset()
    assert observed(env, "pwd; one=1; cd /tmp") == "/app"
    assert observed(env, "echo $one; pwd") == "1\n/tmp"
    env.reset()
    assert observed(env, "echo -$one-; pwd") == "--\n/app"


def test_what_commands_come_to(env: TerminalEnv) -> None:
    env.reset()
    assert observed(env, "echo out; echo err >&2; (exit 3)") == "out\nerr\n[exit code 3]"
    assert observed(env, "true") == ""
    assert (
        observed(env, "printf 'é\\033[1m\\377'; printf '\\346\\274\\242'")
        == "é\\x1b[1m\ufffd\\u6f22"
    )
    long = observed(env, "seq 1000")
    assert long.startswith("1\n2\n")
    assert long.endswith("\n999\n1000")
    assert "left out" in long
    assert len(long) < 700
    _, reward, *_, info = env.step("exit 7")
    assert (reward, info) == (0.0, {"exit_code": 7, "timed_out": False})
    assert observed(env, "pwd") == "/app\n[the shell had ended; this is a new one]"
    assert "[refused: command" in observed(env, "a\0b")


def test_a_command_that_takes_too_long(sandbox: SandboxProxy, tmp_path: Path) -> None:
    env = terminal(write_task(tmp_path), sandbox, command_timeout=0.5)
    env.reset()
    observation, *_, info = env.step("echo before; sleep 600")
    assert observation.startswith("before\n")
    assert observation.endswith("[exit code 143]\n[ended after 0.5 s]")
    assert info["timed_out"]
    assert observed(env, "echo after") == "after"


def test_the_last_step_is_evaluated(env: TerminalEnv) -> None:
    env.reset()
    for _ in range(7):
        assert env.step("echo 42 >/app/answer")[1:4] == (0.0, False, False)
    observation, reward, terminated, truncated, info = env.step("echo last")
    assert (observation, reward, terminated, truncated) == ("last", 1.0, False, True)
    assert info["valid"]
    with pytest.raises(ResetNeeded):
        env.step("true")


def test_the_agents_time(sandbox: SandboxProxy, tmp_path: Path) -> None:
    settings = SETTINGS + '\n[agent]\ntimeout_sec = 1.0\nenv = { GREETING = "hello" }\n'
    env = terminal(write_task(tmp_path, settings), sandbox)
    env.reset()
    assert observed(env, "echo 42 >/app/answer; echo $GREETING") == "hello"
    _, reward, terminated, truncated, info = env.step("sleep 600")
    assert (reward, terminated, truncated, info["timed_out"]) == (1.0, False, True, True)


def test_evaluating_ends_an_episode(env: TerminalEnv) -> None:
    with pytest.raises(ResetNeeded):
        env.evaluate()
    env.reset()
    env.step("echo 42 >/app/answer")
    assert env.evaluate() == env.evaluate() == {"reward": 1.0}
    with pytest.raises(ResetNeeded):
        env.step("true")


def test_an_episode_leaves_nothing_to_the_next(env: TerminalEnv) -> None:
    mess = (
        "cd; touch .profile 'a\nb' /app/x /mnt/x /dev/shm/x; mkdir -p /tests/a/b /srv/d; chmod 0 /tests/a /srv/d;"
        "rm -rf /var/tmp; ln -s / /root/link; (sleep 987 >/dev/null 2>&1 &)"
    )
    look = (
        "for p in /proc/[0-9]*/cmdline; do { tr '\\0' ' ' <$p; } 2>/dev/null; done | grep -c [s]leep.987; "
        "find /app /tests /logs /mnt /srv /root /tmp /var /home /dev/shm -not -path '*/.megaflow-*' 2>/dev/null | sort"
    )
    env.reset()
    fresh = observed(env, look)
    env.step(mess)
    assert observed(env, look) != fresh
    env.reset()
    assert observed(env, look) == fresh


@pytest.mark.long
def test_what_multiplies_is_ended_before_the_tests(host: SandboxHost, tmp_path: Path) -> None:
    sandbox = host.make("process", processes=100)
    try:
        env = terminal(write_task(tmp_path), sandbox, command_timeout=1)
        env.reset()
        # It may take the sandbox's own processes along, which is told, and is no outcome.
        with suppress(SessionLost):
            env.step("echo 42 >/app/answer; f() { f | f & }; f; sleep 0.5")
            assert submitted(env) == 1.0
            assert outcome(env) == 0.0
    finally:
        host.destroy(sandbox)


def test_a_sandbox_that_dies_is_no_reward_either(host: SandboxHost, tmp_path: Path) -> None:
    sandbox = host.make("process")
    try:
        env = terminal(write_task(tmp_path), sandbox)
        env.reset()
        threading.Timer(0.3, host.kill, (sandbox,)).start()
        with pytest.raises(SessionLost):
            env.step("sleep 600")
        with pytest.raises(SessionLost):
            env.step("submit")
    finally:
        host.destroy(sandbox)


def test_one_episode_where_nothing_is_kept(sandbox: SandboxProxy, tmp_path: Path) -> None:
    env = terminal(write_task(tmp_path), sandbox, restartable=False)
    assert outcome(env, "echo 42 >/app/answer") == 1.0
    with pytest.raises(FailedPrecondition, match="restartable=False"):
        env.reset()


def test_what_is_no_action_and_no_option(env: TerminalEnv) -> None:
    with pytest.raises(ResetNeeded):
        env.step(SUBMIT)
    with pytest.raises(InvalidArgument, match="options: seed_of"):
        env.reset(options={"seed_of": 1})
    env.reset()
    with pytest.raises(InvalidArgument, match="action=3"):
        env.step(3)  # type: ignore[arg-type]


def test_it_takes_a_sandbox(tmp_path: Path, sandbox: SandboxProxy) -> None:
    task = str(write_task(tmp_path))
    with pytest.raises(FailedPrecondition, match="with megaflow"):
        TerminalEnv(task)
    with pytest.raises(InvalidArgument, match="max_steps=0"):
        TerminalEnv(task, sandbox=sandbox, max_steps=0)
    with pytest.raises(InvalidArgument, match="command_timeout=nan"):
        TerminalEnv(task, sandbox=sandbox, command_timeout=float("nan"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"task": 7}, "task=7: takes a path"),
        ({"max_steps": "5"}, "max_steps='5': takes a whole number"),
        ({"output_limit": 10.5}, "output_limit=10.5: takes a whole number"),
        ({"command_timeout": "x"}, "command_timeout='x': takes a number"),
        ({"agent_timeout": 0}, "agent_timeout=0: takes a number"),
        ({"sandbox": "x"}, "sandbox='x': no sandbox"),
        ({"verifier_sandbox": 3}, "verifier_sandbox=3: no sandbox"),
    ],
)
def test_what_is_of_another_type_is_named(
    tmp_path: Path, sandbox: SandboxProxy, wrong: dict[str, Any], says: str
) -> None:
    given = {"task": str(write_task(tmp_path)), "sandbox": sandbox, **wrong}
    with pytest.raises(InvalidArgument, match=says):
        TerminalEnv(**given)


def test_half_a_character_is_refused_as_an_observation(env: TerminalEnv) -> None:
    env.reset()
    assert "half of a character" in observed(env, "echo \ud800")
    assert observed(env, "echo on") == "on"


def test_it_is_an_environment_of_gymnasiums(env: TerminalEnv) -> None:
    assert isinstance(env, gym.Env)
    assert isinstance(env.action_space, gym.spaces.Text)
    env.reset()
    assert isinstance(env.step("true")[1], float)
