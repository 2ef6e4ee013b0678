"""Tasks behind a server: what an outcome looks like there, with and without a reward."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import megaflow
from megaflow.sandbox_proxy import SandboxProxy
from megaflow_envs.terminal import TerminalEnv
from sandbox_host import SandboxHost
from task_rig import write_task

pytestmark = pytest.mark.requires("namespaces")


@pytest.mark.parametrize("server", ["inline", None])
def test_an_outcome_without_a_reward(
    server: str | None, sandbox: SandboxProxy, tmp_path: Path
) -> None:
    task = str(write_task(tmp_path, test="exit 3\n"))
    env: Any = megaflow.make(partial(TerminalEnv, task, sandbox=sandbox), server=server)
    try:
        observation, _ = env.reset(seed=1)
        assert env.observation_space.contains(observation)
        assert env.step("echo é; cd /tmp")[0] == "é"
        assert env.step("pwd")[0] == "/tmp"
        _, reward, terminated, truncated, info = env.step("submit")
        assert math.isnan(reward)
        assert (terminated, truncated, info["valid"], info["rewards"]) == (True, False, False, {})
        assert info["failure"]["kind"] == "verifier"
    finally:
        env.close()


def test_one_of_several_without_a_reward(
    host: SandboxHost, sandbox: SandboxProxy, tmp_path: Path
) -> None:
    other = host.make("process")
    tasks = [write_task(tmp_path / "good"), write_task(tmp_path / "bad", test="exit 3\n")]
    makers: list[Callable[[], TerminalEnv]] = [
        partial(TerminalEnv, str(task), sandbox=one)
        for task, one in zip(tasks, (sandbox, other), strict=True)
    ]
    envs: Any = megaflow.make_vec(makers, server="inline")
    try:
        envs.reset(seed=1)
        envs.step(("echo 42 >/app/answer", "true"))
        _, rewards, terminations, _, infos = envs.step(("submit", "submit"))
        np.testing.assert_equal(rewards, [1.0, math.nan])
        assert terminations.all()
        assert infos["valid"].tolist() == [True, False]
        assert infos["rewards"]["reward"].tolist()[0] == 1.0
    finally:
        envs.close()
        host.destroy(other)
