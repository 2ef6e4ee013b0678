from __future__ import annotations

import json
from typing import Any

import pytest

import megaflow
import zoo  # noqa: F401  # registers its environments
from commands import Command
from megaflow_server.cli.report import print_json

INLINE = ("--server", "inline")


def checks(report: str) -> dict[str, str]:
    """The statuses of a report in JSON, by name."""
    return {check["name"]: check["status"] for check in json.loads(report)["checks"]}


def test_list_is_a_table_within_80_columns(command: Command) -> None:
    done = command("envs", "list", *INLINE)
    assert done.status == 0
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if "CartPole-v1" in line and "/" not in line]
    assert row == ["CartPole-v1", "500", "475", "yes"]


def test_list_as_json_is_what_the_client_gives(command: Command) -> None:
    listed = json.loads(command("envs", "list", *INLINE, "--json").out)
    with megaflow.Client("inline") as client:
        assert [entry["id"] for entry in listed] == [info.id for info in client.envs()]
    (pendulum,) = [entry for entry in listed if entry["id"] == "Pendulum-v1"]
    assert pendulum["max_episode_steps"] == 200
    assert pendulum["reward_threshold"] is None


def test_list_of_some(command: Command) -> None:
    listed = json.loads(command("envs", "list", "cartpole", *INLINE, "--json").out)
    assert {"CartPole-v0", "CartPole-v1"} <= {entry["id"] for entry in listed}
    assert all("cartpole" in entry["id"].lower() for entry in listed)


def test_list_of_none_says_no(command: Command) -> None:
    done = command("envs", "list", "no such thing", *INLINE, "--json")
    assert (done.status, json.loads(done.out)) == (1, [])
    assert "no such thing" in done.err


def test_show(command: Command) -> None:
    done = command("envs", "show", "CartPole-v1", *INLINE)
    assert done.status == 0
    assert "Discrete(2)" in done.out
    assert "gymnasium.envs.classic_control.cartpole:CartPoleEnv" in done.out


def test_show_as_json(command: Command) -> None:
    kwargs = ("--env-kwargs", '{"sutton_barto_reward": true}')
    shown = json.loads(command("envs", "show", "CartPole-v1", *kwargs, *INLINE, "--json").out)
    assert shown["action_space"] == "Discrete(2)"
    assert shown["render_modes"] == ["rgb_array"]
    assert shown["max_episode_steps"] == 500
    assert shown["kwargs"]["sutton_barto_reward"] is True


def test_check_of_a_good_environment(command: Command) -> None:
    done = command("envs", "check", "zoo/Dict-v0", *INLINE, "--json")
    assert done.status == 0, done.out
    assert json.loads(done.out)["ok"] is True
    found = checks(done.out)
    assert {"open", "gymnasium", "round trip", "rollout", "determinism"} <= set(found)
    assert "failed" not in found.values()


def test_check_reports_a_line_for_each(command: Command) -> None:
    done = command("envs", "check", "zoo/Dict-v0", *INLINE)
    for name in ("open", "gymnasium", "round trip", "rollout", "determinism"):
        assert any(f" {name} " in line for line in done.out.splitlines()), done.out


def test_check_finds_what_depends_on_more_than_the_seed(command: Command) -> None:
    done = command("envs", "check", "env_faults:Unseeded", *INLINE, "--json")
    assert done.status == 1
    assert json.loads(done.out)["ok"] is False
    assert checks(done.out)["determinism"] == "failed"


def test_check_finds_an_observation_outside_its_space(command: Command) -> None:
    done = command("envs", "check", "env_faults:Outside", *INLINE)
    assert done.status == 1
    (line,) = [line for line in done.out.splitlines() if " rollout " in line]
    assert line.startswith("failed")
    assert "step 1: 7 is not in Discrete(3)" in line


def test_check_goes_on_after_an_environment_raised(command: Command) -> None:
    found = checks(command("envs", "check", "env_faults:Raising", *INLINE, "--json").out)
    assert (found["open"], found["round trip"], found["rollout"]) == ("ok", "ok", "failed")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("show", "CartPoole-v1"), 2, "did you mean 'CartPole-v1'"),
        (("check", "CartPoole-v1"), 2, "did you mean 'CartPole-v1'"),
        (("show", "CartPole-v1", "--env-kwargs", "{"), 2, "is no JSON"),
        (("show", "CartPole-v1", "--env-kwargs", "[]"), 2, "is no JSON object"),
        (("show", "CartPole-v1", "--env-kwargs", '{"x": 1}'), 1, "unexpected keyword argument"),
        (("show", "env_faults:Unmakeable"), 1, "RuntimeError: no licence"),
    ],
)
def test_errors(command: Command, arguments: tuple[str, ...], status: int, says: str) -> None:
    done = command("envs", *arguments, *INLINE)
    assert (done.status, done.out) == (status, "")
    assert says in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(("verb", "argument"), [("list", ""), ("show", "X-v0"), ("check", "X-v0")])
def test_a_server_that_is_not_there(command: Command, verb: str, argument: str) -> None:
    done = command("envs", verb, argument, "--server", "unix:/nonexistent/server.sock")
    assert (done.status, done.out) == (3, "")
    assert done.err.startswith("Error: no megaflow server answers at unix:/nonexistent/server.sock")


def test_an_address_that_is_none(command: Command) -> None:
    done = command("envs", "list", "--server", "http://x")
    assert done.status == 2
    assert done.err.startswith("Error: server='http://x' is no gRPC target")


def test_json_of_what_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    value: dict[Any, Any] = {
        1: float("inf"), "nan": float("nan"), "array": np.ones(2), "scalar": np.float32(2),
        "tuple": (None, True), "class": dict,
    }  # fmt: skip
    print_json(value)
    assert json.loads(capsys.readouterr().out) == {
        "1": "inf", "nan": "nan", "array": [1.0, 1.0], "scalar": 2.0,
        "tuple": [None, True], "class": "<class 'dict'>",
    }  # fmt: skip
