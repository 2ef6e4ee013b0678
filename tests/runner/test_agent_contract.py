"""The shipped agents keep the contract of agents; one that breaks it is found out."""

from __future__ import annotations

import random

import gymnasium as gym
import pytest

import runner_environments
from megaflow import Agent
from megaflow.plugins import make_agent
from megaflow.testing.agents import AgentContract


class TestRandom(AgentContract):
    def make_agent(self) -> Agent:
        return make_agent("random", {})


class TestScripted(AgentContract):
    def make_agent(self) -> Agent:
        return make_agent("scripted", {"actions": [0, 1, 0]})


class TestNop(AgentContract):
    def make_agent(self) -> Agent:
        return make_agent("nop", {})


class TestOracle(AgentContract):
    def make_agent(self) -> Agent:
        return make_agent("oracle", {})

    def make_env(self) -> gym.Env[int, int]:
        return gym.make("runner/Judged-v0")


class TestOwnLoop(AgentContract):
    def make_agent(self) -> Agent:
        return runner_environments.Ones()


class Unseeded(Agent):
    """Draws what nobody can repeat."""

    async def act(self, *_: object) -> tuple[int, dict[str, object]]:
        return random.SystemRandom().randrange(2), {}


class _Unseeded(AgentContract):
    def make_agent(self) -> Agent:
        return Unseeded()


async def test_one_that_is_not_repeated_is_found_out() -> None:
    # Ten steps at least, of two actions each.
    with pytest.raises(AssertionError):
        await _Unseeded().test_what_it_does_follows_from_the_seed()


class _Odd(AgentContract):
    def make_agent(self) -> Agent:
        return runner_environments.Odd()


async def test_one_that_acts_outside_of_the_space_is_found_out() -> None:
    with pytest.raises(AssertionError, match="is not in"):
        await _Odd().test_it_begins_an_episode_and_stops()
