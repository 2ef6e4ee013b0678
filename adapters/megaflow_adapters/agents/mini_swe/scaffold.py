"""What the package takes for an environment and a model; imports it."""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from minisweagent.agents.default import AgentConfig, DefaultAgent
from minisweagent.config import builtin_config_dir, get_config_from_spec
from minisweagent.exceptions import InterruptAgentFlow, Submitted
from minisweagent.models.utils.actions_toolcall import (
    BASH_TOOL,
    format_toolcall_observation_messages,
    parse_toolcall_actions,
)

from megaflow.agent import AgentEnv
from megaflow.dialects.chat_messages import read_messages, read_tools
from megaflow.errors import InvalidArgument
from megaflow.generation import Message, Request, Sampling
from megaflow.model import Model
from megaflow_adapters.agents.mini_swe.bridge import Bridge

__all__ = ["Scaffold"]

# What of the package's configuration there is a use for: costs are counted by whoever serves the model, and what was
# said and done is in the trajectory.
_KNOWN: Final = {
    "agent": {*AgentConfig.model_fields} - {"cost_limit", "output_path"},
    "environment": {"env"},
    "model": {"observation_template", "format_error_template"},
}
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SUBMIT: Final = "submit"
_MARKER: Final = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
# Under which a message of the package's keeps the answer that it stands for.
_WHOLE: Final = "megaflow"
# Each command is a shell of its own, as the model is told; bash, where the sandbox has one.
_SHELL: Final = '"$(command -v bash || command -v sh)"'


class Scaffold:
    """The package's configuration, and what is made of it for an attempt.

    Args:
        config: see `MiniSweAgent`.

    Raises:
        InvalidArgument, ValueError: say what is wrong with it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        own = get_config_from_spec(builtin_config_dir / "mini.yaml")
        sections = {
            name: {key: own[name][key] for key in known if key in own[name]}
            for name, known in _KNOWN.items()
        }
        for name, section in config.items():
            if name not in _KNOWN:
                raise InvalidArgument(f"config: {name}: known are {', '.join(_KNOWN)}")
            if not isinstance(section, Mapping):
                raise InvalidArgument(f"config.{name}={section!r:.100}: takes a table")
            if unknown := sorted(section.keys() - _KNOWN[name]):
                known = ", ".join(sorted(_KNOWN[name]))
                raise InvalidArgument(
                    f"config.{name}: {', '.join(unknown)}: there is a use for {known}"
                )
            sections[name].update(section)
        self._agent = AgentConfig(**sections["agent"], cost_limit=0.0).model_dump()
        self._variables = _assignments(sections["environment"].get("env", {}))
        self._templates = sections["model"]

    def agent(self, bridge: Bridge, env: AgentEnv, model: Model, sampling: Sampling) -> Any:
        """The package's agent, whose `run` blocks: for the bridge."""
        policy = _Policy(bridge, model, sampling, self._templates)
        return DefaultAgent(policy, _Sandbox(bridge, env, self._variables), **self._agent)


def _assignments(variables: Any) -> str:
    if not isinstance(variables, Mapping):
        raise InvalidArgument(f"config.environment.env={variables!r:.100}: takes a table")
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(str(name)) or not isinstance(value, str):
            raise InvalidArgument(
                f"config.environment.env: {name}={value!r:.100}: takes names of variables, and text"
            )
    return "".join(f"{name}={shlex.quote(value)} " for name, value in variables.items())


class _Sandbox:
    """The `minisweagent.Environment` that a task's environment is."""

    def __init__(self, bridge: Bridge, env: AgentEnv, assignments: str) -> None:
        self.config: dict[str, Any] = {}
        self._bridge = bridge
        self._env = env
        self._assignments = assignments

    def execute(self, action: dict[str, Any], cwd: str = "") -> dict[str, Any]:
        """Run a command; raises Submitted once that was its last."""
        command = action.get("command")
        if not isinstance(command, str):
            return _not_run(f"command={command!r:.100}: takes text")
        if cwd:
            command = f"cd -- {shlex.quote(cwd)} || exit\n{command}"
        whole = f"{self._assignments}{_SHELL} -c {shlex.quote(command)} 2>&1"
        longest = getattr(self._env.action_space, "max_length", len(whole))
        if len(whole) > longest:
            return _not_run(
                f"the command comes to {len(whole)} characters, and the environment takes {longest}: "
                "do it in several"
            )
        observation, info = self._step(whole, "bash")
        code = int(info.get("exit_code", 0))
        output = str(observation).removesuffix(f"[exit code {code}]")
        if code == 0 and _submits(output):
            self._step(_SUBMIT, _SUBMIT)
        return {"output": output, "returncode": code, "exception_info": ""}

    def _step(self, action: str, tool: str) -> tuple[Any, Mapping[str, Any]]:
        """Raises InterruptAgentFlow where the episode is over."""
        observation, _, terminated, truncated, info = self._bridge.call(
            lambda: self._env.step(action, {"tool": tool})
        )
        if terminated or truncated:
            status = "Submitted" if tool == _SUBMIT else "EpisodeOver"
            over = Submitted if tool == _SUBMIT else InterruptAgentFlow
            about = {"exit_status": status, "submission": ""}
            raise over({"role": "exit", "content": "", "extra": about})
        return observation, info

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """What the prompt says of the machine: of the runner's, as the package does with its own containers."""
        return {**platform.uname()._asdict(), **kwargs}

    def serialize(self) -> dict[str, Any]:
        """Nothing: the trajectory has it."""
        return {}


def _submits(output: str) -> bool:
    """Whether a command that ended well was the one that the package's prompt has its model end with."""
    return output.lstrip().partition("\n")[0].strip() == _MARKER


def _not_run(why: str) -> dict[str, Any]:
    return {"output": "", "returncode": -1, "exception_info": f"it was not run: {why}"}


@dataclass(frozen=True)
class _Function:
    name: str
    arguments: str


@dataclass(frozen=True)
class _Call:
    """A call in the form that the package's parser takes."""

    id: str
    function: _Function


class _Policy:
    """The `minisweagent.Model` that a model is."""

    def __init__(
        self, bridge: Bridge, model: Model, sampling: Sampling, templates: Mapping[str, str]
    ) -> None:
        self.config: dict[str, Any] = {}
        self._bridge = bridge
        self._model = model
        self._templates = templates
        self._asks = Request(model="policy", tools=read_tools([BASH_TOOL]), sampling=sampling)

    def query(self, messages: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        """The model's answer; raises FormatError, for the model, where it calls no tool."""
        request = replace(self._asks, messages=tuple(map(_message, messages)))
        completion = self._bridge.call(lambda: self._model.generate(request))
        calls = [_Call(one.id, _Function(one.name, one.arguments)) for one in completion.tool_calls]
        actions = parse_toolcall_actions(
            calls,
            format_error_template=self._templates["format_error_template"],
            template_kwargs={"finish_reason": completion.finish_reason},
        )
        # Whole: what the model thought, too, goes back to it as it came.
        answer = Message("assistant", completion.parts)
        extra = {"actions": actions, "cost": 0.0, _WHOLE: answer}
        return {"role": "assistant", "content": completion.text, "extra": extra}

    def format_message(self, **kwargs: Any) -> dict[str, Any]:
        """A message of the package's."""
        return kwargs

    def format_observation_messages(
        self,
        message: dict[str, Any],
        outputs: list[dict[str, Any]],
        template_vars: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """What the calls of an answer gave, as messages."""
        messages: list[dict[str, Any]] = format_toolcall_observation_messages(
            actions=message["extra"]["actions"],
            outputs=outputs,
            observation_template=self._templates["observation_template"],
            template_vars=template_vars,
        )
        return messages

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """What the package's templates name."""
        return {"model_name": self._model.name, **kwargs}

    def serialize(self) -> dict[str, Any]:
        """Nothing: the trajectory has it."""
        return {}


def _message(told: Mapping[str, Any]) -> Message:
    if whole := told.get("extra", {}).get(_WHOLE):
        answer: Message = whole
        return answer
    (message,) = read_messages([{name: one for name, one in told.items() if name != "extra"}])
    return message
