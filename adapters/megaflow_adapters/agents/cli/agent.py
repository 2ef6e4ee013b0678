"""What a runner makes of the name `cli`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from megaflow.agent import Agent, AgentEnv, AgentSandbox, AgentTask
from megaflow.agent_bundles import Bundle, find, preset
from megaflow.errors import InvalidArgument
from megaflow.model import Model

__all__ = ["CliAgent"]

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What a command finds what it is asked for by, beside the variables that say where the models are.
_INSTRUCTION: Final = "MEGAFLOW_INSTRUCTION"


class CliAgent(Agent):
    """Runs one command in the task's sandbox, which calls the task's models there as it would call their providers.

    It finds them by OPENAI_BASE_URL, OPENAI_API_KEY, ANTHROPIC_BASE_URL and ANTHROPIC_AUTH_TOKEN, also where the
    sandbox has no network. Whatever it ends with, the attempt is evaluated as it stands then.

    Args:
        command: shell. `$MEGAFLOW_INSTRUCTION` is what is to be done there, and `{instruction}` stands for the same,
            quoted. Default: the preset's, or the bundle's.
        preset: of a program that is in the image, or in the bundle.
        bundle: NAME or NAME@VERSION of one that is where the runner is; it is copied into the sandbox, where its
            programs go before those of the image on PATH, and its tools after them.
        env: more variables.
        timeout: seconds, after which it is ended; never more than the environment gives an agent.
        output_limit: bytes of each of its outputs that are kept, half from the beginning and half from the end.

    Raises:
        InvalidArgument, NotFound: names the argument that is wrong.
    """

    roles: ClassVar[tuple[str, ...]] = ("policy",)

    def __init__(
        self,
        command: str | None = None,
        preset: str | None = None,
        bundle: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 3600.0,
        output_limit: int = 65_536,
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise InvalidArgument(f"timeout={timeout!r}: takes seconds above 0")
        if type(output_limit) is not int or output_limit < 1:
            raise InvalidArgument(f"output_limit={output_limit!r}: takes a whole number from 1 on")
        self._bundle = None if bundle is None else find(bundle)
        known = _known(preset, self._bundle)
        self._command = _checked_command(known[0] if command is None else command)
        self._env = {**known[1], **_checked_env(env or {})}
        self._timeout = float(timeout)
        self._output_limit = output_limit

    async def run(self, task: AgentTask, env: AgentEnv, models: Mapping[str, Model]) -> None:
        """See `Agent.run`."""
        if task.instruction is None:
            raise InvalidArgument(
                f"agent='cli' works at what an instruction says, and {task.env} has none: take another agent"
            )
        await env.reset()
        async with env.sandbox() as sandbox:
            command = self._command.replace("{instruction}", shlex.quote(task.instruction))
            if self._bundle is not None:
                await _put(sandbox, self._bundle)
                root = self._bundle.root
                command = f'PATH="{root}/bin:$PATH:{root}/tools"; export PATH\n{command}'
            await sandbox.run(
                command,
                timeout=self._timeout,
                env={_INSTRUCTION: task.instruction, **self._env},
                output_limit=self._output_limit,
            )


async def _put(sandbox: AgentSandbox, bundle: Bundle) -> None:
    with bundle.archive.open("rb") as archive:
        await sandbox.put(archive)


def _known(name: str | None, bundle: Bundle | None) -> tuple[str | None, Mapping[str, str]]:
    """The command and the variables of a preset, else of a bundle."""
    if name is not None:
        recipe = preset(name).recipe
        return recipe.command, recipe.env
    return (None, {}) if bundle is None else (bundle.command, bundle.env)


def _checked_command(command: Any) -> str:
    if not isinstance(command, str) or not command.strip():
        raise InvalidArgument(
            f"command={command!r:.100}: give a line of shell, such as 'agent --task {{instruction}}', a preset or a "
            "bundle"
        )
    return command


def _checked_env(env: Any) -> dict[str, str]:
    if not isinstance(env, Mapping):
        raise InvalidArgument(f"env={env!r:.100}: takes a table")
    for name, value in env.items():
        if not _VARIABLE.fullmatch(str(name)) or not isinstance(value, str):
            raise InvalidArgument(f"env: {name}={value!r:.100}: takes names of variables, and text")
    return dict(env)
