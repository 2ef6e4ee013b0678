"""What environments with a sandbox have in common: commands as actions, their outputs as observations."""

from __future__ import annotations

import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.error import ResetNeeded

from megaflow.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from megaflow.sandbox import Sandbox, Shell
from megaflow_envs.starts import Once, Start, start_of
from megaflow_envs.text import command_space, observed, output_space, shown
from megaflow_envs.verdict import Verdict, VerifierFailed

__all__ = ["SUBMIT", "CommandEnv", "Conduct", "check_sandbox", "check_seconds"]

# The action that says: done, evaluate it.
SUBMIT = "submit"


@dataclass(frozen=True)
class Conduct:
    """How an agent is let work.

    Attributes:
        max_steps: commands of an episode; after the last it is truncated, and evaluated as it stands.
        command_timeout: seconds for one command, which is then ended.
        agent_timeout: seconds for all commands of an episode; what passes between them is not counted.
        output_limit: characters of an observation; the middle of a longer one is left out.
        user: who runs the commands; None for the sandbox's own.
        directory: where they begin; None for the sandbox's own.
        environ: laid over the sandbox's environment.
        restartable: whether there are several episodes. Without it nothing is kept of how the first one began,
            so that the sandbox can serve another session, and a second `reset` raises FailedPrecondition.
    """

    max_steps: int = 100
    command_timeout: float = 60.0
    agent_timeout: float | None = None
    output_limit: int = 16_000
    user: str | None = None
    directory: str | None = None
    environ: Mapping[str, str] | None = None
    restartable: bool = True

    def __post_init__(self) -> None:
        for name in ("max_steps", "output_limit"):
            if type(value := getattr(self, name)) is not int or value <= 0:
                raise InvalidArgument(f"{name}={value!r}: takes a whole number above 0")
        check_seconds("command_timeout", self.command_timeout)
        if self.agent_timeout is not None:
            check_seconds("agent_timeout", self.agent_timeout)


def check_seconds(name: str, value: object) -> None:
    """Raise InvalidArgument for what is no number above 0."""
    if not isinstance(value, int | float) or not value > 0:  # refuses nan, too
        raise InvalidArgument(f"{name}={value!r}: takes a number above 0")


def check_sandbox(name: str, value: object) -> None:
    """Raise InvalidArgument for what runs no commands."""
    if not hasattr(value, "exec"):
        raise InvalidArgument(
            f"{name}={value!r}: no sandbox; leave it out, and make the environment with "
            "megaflow.make"
        )


class CommandEnv(gym.Env[str, str], ABC):
    """Runs shell commands; the reward comes at the end, from a verifier.

    An action is a command, run in one shell for the whole episode, or "submit". An observation is what it
    wrote; the first is the instruction. The last step's info has `valid`, `rewards` and, where the verifier
    could not do its work, `failure`: the reward is nan then, since there is none.

    Args:
        sandbox: given by megaflow.
        instruction: what the agent is asked to do.
    """

    metadata = {"render_modes": []}

    def __init__(self, sandbox: Sandbox | None, instruction: str, conduct: Conduct) -> None:
        if sandbox is None:
            raise FailedPrecondition(
                "sandbox=None: this environment runs commands in a sandbox, which a server of megaflow gives it: "
                "make it with megaflow.make"
            )
        check_sandbox("sandbox", sandbox)
        self._sandbox = sandbox
        self._conduct = conduct
        self._instruction = shown(instruction)
        self._start: Start | None = None
        self._shell: Shell | None = None
        self._steps = 0
        self._spent = 0.0
        self._verdict: Verdict | None = None
        self._defers = self._ended = False
        self.action_space = command_space()
        self.observation_space = output_space(conduct.output_limit, self._instruction)

    @abstractmethod
    def set_up(self) -> None:
        """Make a fresh sandbox what an episode begins with."""

    def begin(self) -> None:
        """What else each episode begins with."""

    @abstractmethod
    def verify(self) -> Mapping[str, float]:
        """The rewards, once the agent's processes have ended.

        Raises:
            VerifierFailed: there are none.
        """

    @property
    def instruction(self) -> str:
        """What the agent is asked to do."""
        return self._instruction

    def solution(self) -> list[str]:
        """The reference solution, as actions in the episode that has begun; puts there what they need.

        Raises:
            NotFound: the task has none.
        """
        if self._shell is None:
            raise ResetNeeded("there is no episode to be solved yet: call reset()")
        return [*self.solve(), SUBMIT]

    def solve(self) -> list[str]:
        """The commands of the reference solution, once what they need is there."""
        raise NotFound("this task has no reference solution")

    def describe(self) -> dict[str, Any]:
        """What the info of a reset says."""
        return {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        if options:
            raise InvalidArgument(f"options: {', '.join(sorted(options))}: there are none of these")
        if self._start is None:
            start = start_of(self._sandbox, restartable=self._conduct.restartable)
            self.set_up()
            start.keep()
            self._start = start
        else:
            self._end_processes()
            is_set_up = self._start.go_back()
            self._sandbox.enter("setup")
            if not is_set_up:
                self.set_up()
        self.begin()
        self._sandbox.enter("agent")
        self._shell = self._open_shell()
        self._steps, self._spent, self._verdict, self._ended = 0, 0.0, None, False
        return self._instruction, self.describe()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if not isinstance(action, str):
            raise InvalidArgument(
                f"action={action!r}: takes a shell command as text, or {SUBMIT!r}"
            )
        if self._shell is None or self._ended:
            raise ResetNeeded("the episode is over, or has not begun: call reset()")
        self._steps += 1
        if action.strip() == SUBMIT:
            return self._over("", {}, terminated=True)
        observation, info = self._run(self._shell, action)
        conduct = self._conduct
        out_of_time = conduct.agent_timeout is not None and self._spent >= conduct.agent_timeout
        if self._steps >= conduct.max_steps or out_of_time:
            return self._over(observation, info, terminated=False)
        return observation, 0.0, False, False, info

    def acting(self) -> dict[str, Any]:
        """How an agent's commands are run in the episode that has begun, for an agent that runs in the sandbox itself.

        Its name as a parameter, `user` and `cwd` ("" for the sandbox's own), `env`, and `timeout`, the seconds that are
        left.
        """
        if self._shell is None or self._ended:
            raise ResetNeeded("there is no episode to act in: call reset()")
        conduct = self._conduct
        limit = conduct.agent_timeout
        return {
            "sandbox": "sandbox",
            "user": conduct.user or "",
            "cwd": conduct.directory or "",
            "env": dict(conduct.environ or {}),
            "timeout": None if limit is None else max(limit - self._spent, 0.01),
        }

    def defer_verdict(self) -> None:
        """Leave the verdict to `evaluate`: from now on the last step of an episode has a reward of 0 and no verdict.

        So a snapshot can be made of an episode that is over and that nobody has judged.
        """
        self._defers = True

    def evaluate(self) -> dict[str, float]:
        """The named rewards of the episode as it stands; ends it where it is not over.

        Raises:
            VerifierFailed: there are none.
        """
        if self._verdict is None:
            if self._shell is None:
                raise ResetNeeded("there is no episode yet: call reset()")
            self._verdict = self._judge()
        if self._verdict.failure is not None:
            raise self._verdict.failure
        return dict(self._verdict.rewards)

    def get_state(self) -> dict[str, Any]:
        """What an episode is beside its sandbox's files: to be kept with a snapshot of these.

        Of the shell, its directory and its exported variables; what it runs in the background is not kept.
        """
        if self._shell is None:
            raise ResetNeeded("there is no episode to be kept: call reset()")
        try:
            where, _, exports = self._shell.run("pwd; export -p").stdout.text.partition("\n")
        except (
            FailedPrecondition
        ):  # the command before ended it: a new one begins where the first did
            where, exports = "", ""
        lines = [*([f"cd -- {shlex.quote(where)}"] if where else []), exports]
        return {
            "steps": self._steps,
            "spent": self._spent,
            "ended": self._ended,
            "shell": "\n".join(lines),
            "kept": self.kept(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with an episode that `get_state` was asked for, in a sandbox with the files that it had then."""
        if self._start is None:
            self._start = Once("it began from a snapshot")
        self.keep(state["kept"])
        self.begin()
        self._sandbox.enter("agent")
        self._shell = self._open_shell()
        self._shell.run(state["shell"])
        self._steps, self._spent, self._verdict = state["steps"], state["spent"], None
        self._ended = state["ended"]

    def kept(self) -> Any:
        """What the verifier has to know of how the episode began."""
        return None

    def keep(self, kept: Any) -> None:
        """Take over what `kept` gave."""

    def _run(self, shell: Shell, command: str) -> tuple[str, dict[str, Any]]:
        limit = self._conduct.output_limit
        timeout = self._conduct.command_timeout
        if self._conduct.agent_timeout is not None:
            timeout = min(timeout, max(self._conduct.agent_timeout - self._spent, 0.01))
        notice = ""
        began = time.monotonic()
        try:
            try:
                result = shell.run(command, timeout=timeout, output_limit=limit)
            except FailedPrecondition:  # the command before ended it
                self._shell = self._open_shell()
                notice = "[the shell had ended; this is a new one]"
                result = self._shell.run(command, timeout=timeout, output_limit=limit)
        except InvalidArgument as error:  # no command at all: the agent's doing, which it is told
            return shown(f"[refused: {error.message}]"), {"exit_code": -1, "timed_out": False}
        except Unavailable:  # it has killed what serves the sandbox, and all has ended with that
            self._shell = self._open_shell()
            return "[ended with all that ran; this is a new shell]", {
                "exit_code": 137,
                "timed_out": False,
            }
        except (
            DeadlineExceeded
        ):  # so much runs that nothing can be ended by what it takes to end it: all goes
            self._end_processes()
            self._shell = self._open_shell()
            notice = f"[ended after {timeout:g} s, with all that ran; this is a new shell]"
            return notice, {"exit_code": 137, "timed_out": True}
        finally:
            self._spent += time.monotonic() - began
        if result.timed_out:
            notice += f"[ended after {timeout:g} s]"
        info = {"exit_code": result.exit_code, "timed_out": result.timed_out}
        return observed(result, limit, notice), info

    def _over(
        self, observation: str, info: dict[str, Any], *, terminated: bool
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._defers:
            self._ended = True
            return observation, 0.0, terminated, not terminated, info
        if self._verdict is None:
            self._verdict = self._judge()
        verdict = self._verdict
        return observation, verdict.reward, terminated, not terminated, {**info, **verdict.info()}

    def _judge(self) -> Verdict:
        try:
            self._shell = None
            try:
                # Which ends all that runs.
                self._sandbox.enter("verifier")
                return Verdict(self.verify())
            except (
                FailedPrecondition,
                InvalidArgument,
                NotFound,
                ResourceExhausted,
                Unavailable,
            ) as error:
                raise VerifierFailed(error.message) from error
        except VerifierFailed as failure:
            return Verdict({}, failure)

    def _end_processes(self) -> None:
        self._shell = None
        self._sandbox.end_processes()

    def _open_shell(self) -> Shell:
        conduct = self._conduct
        try:
            return self._sandbox.shell(
                cwd=conduct.directory,
                env=dict(conduct.environ or {}),
                user=conduct.user,
                interpreter="bash",
            )
        except NotFound:  # an image without bash, or one without that folder, which then says so
            return self._sandbox.shell(
                cwd=conduct.directory, env=dict(conduct.environ or {}), user=conduct.user
            )
