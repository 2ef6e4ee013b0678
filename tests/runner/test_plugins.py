"""Agents and models by name."""

from __future__ import annotations

from typing import Any

import pytest

import runner_environments
from megaflow import Agent, register_agent, register_model
from megaflow.errors import InvalidArgument, NotFound
from megaflow.plugins import agent_names, make_agent, make_model, model_names


def test_what_is_shipped_is_there() -> None:
    assert {"nop", "oracle", "random", "scripted"} <= set(agent_names())
    assert {"echo", "scripted"} <= set(model_names())
    assert isinstance(make_agent("scripted", {"actions": [1]}), Agent)
    assert make_model("echo").name == "echo"


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "words"),
    [
        ("orcale", {}, NotFound, "did you mean 'oracle'?"),
        ("runner_environments:Ones", {}, NotFound, "--allow-import"),
        ("random", {"max_step": 3}, InvalidArgument, "max_step"),
        ("random", {"max_steps": 0}, InvalidArgument, "max_steps=0"),
        ("scripted", {"actions": "ls"}, InvalidArgument, "give a list"),
    ],
)
def test_what_is_no_agent_is_told(
    name: str, kwargs: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_agent(name, kwargs)


def test_names_that_import_code_are_taken_where_that_is_allowed() -> None:
    made = make_agent("runner_environments:Ones", {}, imports=True)
    assert isinstance(made, runner_environments.Ones)
    for name, words in (("no_such:Thing", "no_such"), ("runner_environments:Counting", "Agent")):
        with pytest.raises((NotFound, InvalidArgument), match=words):
            make_agent(name, {}, imports=True)


def test_a_name_is_one_agents() -> None:
    register_agent("ones", runner_environments.Ones)  # again is fine
    with pytest.raises(InvalidArgument, match="registered already"):
        register_agent("ones", runner_environments.Odd)
    with pytest.raises(InvalidArgument, match="without ':'"):
        register_agent("a:b", runner_environments.Odd)


def test_a_model_that_takes_arguments_is_registered_with_them() -> None:
    with pytest.raises(InvalidArgument, match="model='scripted'"):
        make_model("scripted")
    register_model("away-again", lambda: make_model("echo"))
    assert make_model("away-again").name == "echo"
