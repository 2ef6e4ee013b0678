"""The environment of one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megaflow.errors import FailedPrecondition, NotFound
from megaflow.listed_task import ListedTask
from megaflow.sandbox import Sandbox
from megaflow.sandbox_request import SandboxRequest
from megaflow_envs.commands import CommandEnv, Conduct, check_seconds
from megaflow_envs.shipped import PREFIX, swe_dataset
from megaflow_envs.swe.rows import DIRECTORY, Row, listed_rows, load_row
from megaflow_envs.swe.tests import GIT, PreparedTests

__all__ = ["SWEEnv"]

_SECONDS = 300.0
_SOLUTION = "/tmp/.megaflow-solution.patch"
# The same author and time, so that the commit has the hash that the row says.
_IDENTITY = {
    **{f"GIT_{who}_NAME": "megaflow" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "megaflow@localhost" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_DATE": "2000-01-01T00:00:00+00:00" for who in ("AUTHOR", "COMMITTER")},
}
_FROM_NOTHING = r"""
set -e
mkdir -p -- "$FOLDER"
cd -- "$FOLDER"
git -c init.defaultBranch=main init -q
git apply --index --whitespace=nowarn "$PATCH"
git commit -q -m base --no-gpg-sign
rm -f -- "$PATCH"
"""


class SWEEnv(CommandEnv):
    """Works on an issue of a repository by shell commands; the tests that it should make pass give the reward.

    The reward is 1 where all of FAIL_TO_PASS and PASS_TO_PASS pass, else 0; `rewards` has the shares.

    Args:
        dataset: a file of rows on the server's host, or "megaflow:swe".
        instance_id: of the row.
        sandbox: given by megaflow.
        template: what the server makes the sandbox of; None for what the row says alone.
        image: in place of the row's.
        verifier_timeout: seconds for the tests.
        options: the rest of `Conduct`.
    """

    def __init__(
        self,
        dataset: str,
        instance_id: str,
        *,
        sandbox: Sandbox | None = None,
        template: str | None = None,
        image: str | None = None,
        max_steps: int = 100,
        command_timeout: float = 60.0,
        agent_timeout: float | None = None,
        verifier_timeout: float = 1800.0,
        output_limit: int = 16_000,
        restartable: bool = True,
    ) -> None:
        row = load_row(swe_dataset(dataset), instance_id)
        conduct = Conduct(
            max_steps=max_steps,
            command_timeout=command_timeout,
            agent_timeout=agent_timeout,
            output_limit=output_limit,
            directory=DIRECTORY,
            restartable=restartable,
        )
        super().__init__(sandbox, row.problem_statement, conduct)
        check_seconds("verifier_timeout", verifier_timeout)
        self.row = row
        self._verifier_timeout = verifier_timeout
        self._tests: PreparedTests | None = None

    @classmethod
    def sandboxes(
        cls,
        dataset: str,
        instance_id: str,
        *,
        template: str | None = None,
        image: str | None = None,
        **others: Any,
    ) -> Mapping[str, SandboxRequest]:
        """What its sandbox must be like; see `megaflow.sandbox_request`."""
        row: Row = load_row(swe_dataset(dataset), instance_id)
        return {"sandbox": SandboxRequest(template=template, image=image or row.image)}

    @classmethod
    def tasks(cls, dataset: str) -> Iterator[ListedTask]:
        """The rows of a file, or of "megaflow:swe". Raises NotFound where there is none."""
        named = dataset if dataset.startswith(PREFIX) else str(Path(dataset).resolve())
        for name, digest, error in listed_rows(swe_dataset(dataset)):
            yield ListedTask(name, {"dataset": named, "instance_id": name}, digest, error)

    def describe(self) -> dict[str, Any]:
        return {"task": self.row.instance_id, "repo": self.row.repo}

    def set_up(self) -> None:
        row = self.row
        if row.base_patch is not None:
            self._make_repository(row.base_patch)
        done = self._sandbox.exec(
            'git cat-file -e "$BASE^{commit}"', cwd=DIRECTORY, env={**GIT, "BASE": row.base_commit}
        )
        if done.exit_code:
            raise FailedPrecondition(
                f"{row.instance_id}: {DIRECTORY} does not have the commit {row.base_commit}: "
                f"{done.stderr.text.strip() or done.exit_code}"
            )
        self._tests = PreparedTests.prepare(self._sandbox, row)

    def solve(self) -> list[str]:
        if self.row.patch is None:
            raise NotFound(f"{self.row.instance_id}: its row has no patch that solves it")
        self._sandbox.write_file(_SOLUTION, self.row.patch)
        return [f"cd {DIRECTORY} && git apply --whitespace=nowarn {_SOLUTION}"]

    def verify(self) -> Mapping[str, float]:
        assert self._tests is not None
        return self._tests.run(self._sandbox, self._verifier_timeout)

    def kept(self) -> tuple[bytes, str]:
        assert self._tests is not None
        return self._tests.files, self._tests.paths

    def keep(self, kept: tuple[bytes, str]) -> None:
        self._tests = PreparedTests(self.row, *kept)

    def _make_repository(self, patch: str) -> None:
        place = "/tmp/.megaflow-base"
        self._sandbox.write_file(place, patch)
        done = self._sandbox.exec(
            _FROM_NOTHING,
            env={**GIT, **_IDENTITY, "FOLDER": DIRECTORY, "PATCH": place},
            timeout=_SECONDS,
        )
        if done.exit_code:
            raise FailedPrecondition(
                f"{self.row.instance_id}: its repository cannot be made: {done.stderr.text.strip()}"
            )
