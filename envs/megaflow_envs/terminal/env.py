"""The environment of one task folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from megaflow.errors import FailedPrecondition, MegaflowError, NotFound
from megaflow.listed_task import ListedTask, digest_of_folder
from megaflow.sandbox import Sandbox
from megaflow.sandbox_request import SandboxRequest
from megaflow.task_folders import TaskFolder, find_tasks
from megaflow_envs.commands import CommandEnv, Conduct, check_sandbox
from megaflow_envs.shipped import terminal_dataset, terminal_task
from megaflow_envs.terminal.verifier import Verifier, furnish, keeper_of

__all__ = ["SOLUTION", "TerminalEnv"]

# Where Harbor, too, puts the reference solution.
SOLUTION = "/solution"


class TerminalEnv(CommandEnv):
    """Works on a task by shell commands; `tests/test.sh` gives the reward.

    Args:
        task: the task's folder on the server's host, or "megaflow:NAME" for one that megaflow ships.
        sandbox: given by megaflow.
        verifier_sandbox: given by megaflow to a task whose verifier has a sandbox of its own.
        template: what the server makes the sandboxes of; None for what the task says alone.
        agent_timeout: in place of the task's.
        options: the rest of `Conduct`.

    Raises:
        NotFound, InvalidArgument, FailedPrecondition: see `TaskFolder.load`.
    """

    def __init__(
        self,
        task: str,
        *,
        sandbox: Sandbox | None = None,
        verifier_sandbox: Sandbox | None = None,
        template: str | None = None,
        max_steps: int = 100,
        command_timeout: float = 60.0,
        agent_timeout: float | None = None,
        output_limit: int = 16_000,
        restartable: bool = True,
    ) -> None:
        folder = TaskFolder.load(terminal_task(task))
        agent = folder.settings.agent
        conduct = Conduct(
            max_steps=max_steps,
            command_timeout=command_timeout,
            agent_timeout=agent.timeout_sec if agent_timeout is None else agent_timeout,
            output_limit=output_limit,
            user=agent.user,
            directory=folder.directory,
            environ=agent.env,
            restartable=restartable,
        )
        super().__init__(sandbox, folder.instruction, conduct)
        if folder.settings.verifier.is_separate and verifier_sandbox is None:
            raise FailedPrecondition(
                f"verifier_sandbox=None: the verifier of {folder.path} has a sandbox of its own, which a server "
                "of megaflow gives it: make it with megaflow.make"
            )
        if verifier_sandbox is not None:
            check_sandbox("verifier_sandbox", verifier_sandbox)
        self.task = folder
        self._verifier = Verifier(folder, self._sandbox, verifier_sandbox, restartable=restartable)

    @classmethod
    def sandboxes(
        cls, task: str, *, template: str | None = None, **others: Any
    ) -> Mapping[str, SandboxRequest]:
        """What its sandboxes must be like; see `megaflow.sandbox_request`."""
        folder = TaskFolder.load(terminal_task(task))
        requests = {"sandbox": folder.request(template)}
        own = folder.verifier_request(template)
        return requests if own is None else {**requests, "verifier_sandbox": own}

    @classmethod
    def tasks(cls, dataset: str) -> Iterator[ListedTask]:
        """The tasks of a folder, or of "megaflow:terminal". Raises NotFound where there is none."""
        for path in find_tasks(terminal_dataset(dataset)):
            path = path.resolve()
            digest, error = "", None
            try:
                TaskFolder.load(path)
                digest = digest_of_folder(path)
            except MegaflowError as found:
                error = found
            yield ListedTask(path.name, {"task": str(path)}, digest, error)

    def describe(self) -> dict[str, Any]:
        return {"task": self.task.name}

    def set_up(self) -> None:
        furnish(self._sandbox, self.task, keeper_of(self._sandbox), image=self.task.image)

    def begin(self) -> None:
        self._verifier.set_up()

    def solve(self) -> list[str]:
        folder = self.task.path / "solution"
        if not (folder / "solve.sh").is_file():
            raise NotFound(f"{folder / 'solve.sh'} is not there, so that this task has no solution")
        keeper = keeper_of(self._sandbox)
        self._sandbox.upload(folder, SOLUTION, user=keeper)
        self._sandbox.exec(f"chmod -R a+rX {SOLUTION}", user=keeper)
        script = f"{SOLUTION}/solve.sh"
        return [f"if command -v bash >/dev/null; then bash {script}; else sh {script}; fi"]

    def verify(self) -> Mapping[str, float]:
        return self._verifier.verify()
