"""What a runner makes of the name `mini-swe-agent`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from gymnasium.spaces import Text

from megaflow.agent import Agent, AgentEnv, AgentTask
from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.model import Model
from megaflow_adapters.agents.mini_swe.bridge import Bridge
from megaflow_adapters.agents.sampling import checked_sampling, sampling_of

__all__ = ["MiniSweAgent"]


class MiniSweAgent(Agent):
    """The loop of the package mini-swe-agent: a model with one tool, `bash`, whose every command is a new shell.

    It asks the model `policy`, for environments with an instruction whose actions are shell commands. It stops when the
    model submits, when the episode is over, or at a limit; the attempt is evaluated as it stands then.

    Args:
        config: laid over the package's `mini.yaml`, in its form: `agent` (`system_template`, `instance_template`,
            `step_limit`, `wall_time_limit_seconds`, `max_consecutive_format_errors`), `environment` (`env`) and `model`
            (`observation_template`, `format_error_template`).
        sampling: fields of `megaflow.generation.Sampling`; where it has no seed the task's is taken.

    Raises:
        FailedPrecondition: the package is not installed.
        InvalidArgument: names the argument that is wrong.
    """

    roles: ClassVar[tuple[str, ...]] = ("policy",)

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        scaffold = _scaffold()
        self._scaffold = scaffold.Scaffold(config or {})
        self._sampling = checked_sampling(sampling or {})

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        """See `Agent.run`."""
        instruction = task.instruction
        if instruction is None or not isinstance(task.action_space, Text):
            raise InvalidArgument(
                f"agent='mini-swe-agent' works by shell commands at what an instruction says, and {task.env} has "
                f"{'no instruction' if instruction is None else f'actions {task.action_space}'}: take the agent 'tool'"
            )
        await env.reset()
        bridge = Bridge()
        sampling = sampling_of(self._sampling, task)
        loop = self._scaffold.agent(bridge, env, models["policy"], sampling)
        await bridge.run(lambda: loop.run(instruction))


def _scaffold() -> Any:
    # The package greets whoever imports it.
    os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
    try:
        return import_module("megaflow_adapters.agents.mini_swe.scaffold")
    except ImportError as error:
        raise FailedPrecondition(
            f"agent='mini-swe-agent' needs {error.name}, which is not installed where the runner is: "
            "pip install 'megaflow[mini-swe-agent]'"
        ) from error
