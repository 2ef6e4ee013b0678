"""Environments with sandboxes, for servers in tests to import."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from megaflow.sandbox_request import SandboxRequest

__all__ = ["TAKER", "Taker"]

TAKER = "lent/Taker-v0"


class Taker(gym.Env[str, str]):
    """Runs each action as a command in a sandbox of the template "box".

    "die" ends its worker, "score X" the episode with this reward, "void" ends it with no valid outcome, "raise" raises.

    Args:
        parting: a file, in which its last words are put when it is closed: what its sandbox says then.
    """

    observation_space = gym.spaces.Text(1000)
    action_space = gym.spaces.Text(1000)

    def __init__(self, sandbox: Any, parting: str = "") -> None:
        self.sandbox = sandbox
        self.parting = parting

    @classmethod
    def sandboxes(cls, **others: Any) -> Mapping[str, SandboxRequest]:
        return {"sandbox": SandboxRequest(template="box")}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "raise":
            raise ValueError("as it was told")
        if action == "void":
            return "", math.nan, True, False, {"valid": False}
        if action.startswith("score "):
            return "", float(action.split()[1]), True, False, {}
        return self.sandbox.exec(action).stdout.text.strip(), 0.0, False, False, {}

    def close(self) -> None:
        if self.parting:
            Path(self.parting).write_text(self.sandbox.exec("cat /tmp/mine").stdout.text)


gym.register(TAKER, entry_point="lent_environments:Taker")
