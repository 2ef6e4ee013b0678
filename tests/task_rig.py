"""Tasks for tests: folders written here, sandboxes to run them in, and what an agent would do."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megaflow.sandbox import Sandbox
from megaflow_envs.commands import SUBMIT, CommandEnv
from megaflow_envs.terminal import TerminalEnv

__all__ = ["SETTINGS", "outcome", "solve", "submitted", "terminal", "write_task"]

SETTINGS = """
[metadata.megaflow]
needs_image = false
"""
# Passes where /app/answer says 42.
_TEST = """
mkdir -p /logs/verifier
if [ "$(cat /app/answer)" = 42 ]; then echo 1; else echo 0; fi >/logs/verifier/reward.txt
"""


def write_task(
    folder: Path,
    settings: str = SETTINGS,
    test: str = _TEST,
    files: Mapping[str, str] | None = None,
) -> Path:
    """A task whose answer, in /app/answer, is 42."""
    written = {
        "task.toml": settings,
        "instruction.md": "Write 42 to /app/answer.\n",
        "tests/test.sh": test,
        "solution/solve.sh": "echo 42 >/app/answer\n",
        **(files or {}),
    }
    for name, content in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def terminal(task: Path | str, sandbox: Sandbox, **options: Any) -> TerminalEnv:
    return TerminalEnv(str(task), sandbox=sandbox, **options)


def solve(env: CommandEnv, script: str) -> str:
    """Run a script as an agent would, who has it as text alone; what it wrote."""
    encoded = base64.b64encode(script.encode()).decode()
    observation, *_ = env.step(
        f"echo {shlex.quote(encoded)} | base64 -d >/tmp/solve; sh /tmp/solve"
    )
    return observation


def outcome(env: CommandEnv, *commands: str) -> float | str:
    """The reward of an episode of these commands; why there is none where it is invalid."""
    env.reset(seed=1)
    for command in commands:
        _, reward, terminated, truncated, info = env.step(command)
        assert (reward, terminated, truncated) == (0.0, False, False), info
    return submitted(env)


def submitted(env: CommandEnv) -> float | str:
    """The reward of an episode as it stands."""
    _, reward, terminated, truncated, info = env.step(SUBMIT)
    assert (terminated, truncated) == (True, False)
    assert info["valid"] is not math.isnan(reward)
    if info["valid"]:
        assert info["rewards"]["reward"] == reward
        return reward
    assert info["rewards"] == {}
    assert (info["failure"]["kind"], info["failure"]["phase"]) == ("verifier", "verifier")
    return str(info["failure"]["reason"])
