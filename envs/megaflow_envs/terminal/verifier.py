"""How a task's `tests/test.sh` is run, and what counts as its verdict."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow.sandbox import ExecResult, Sandbox
from megaflow.task_folders import TaskFolder
from megaflow_envs.starts import Start, start_of
from megaflow_envs.verdict import NOBODYS, VerifierFailed, read_rewards, require_evidence

__all__ = ["LOGS", "TESTS", "Verifier", "furnish", "keeper_of"]

TESTS = "/tests"
LOGS = "/logs"
REPORTS = f"{LOGS}/verifier"
# Bytes that an artifact may have in all.
_ARTIFACT_MOST = 256 << 20
_TAIL = 2000
ROOT = "0"
_PREPARE_SECONDS = 120.0

# Nothing of what the agent left there, also where it is a link to somewhere else, or closed.
_CLEAR = r"""
set -e
for folder in "$TESTS" "$REPORTS"; do
  if [ -L "$folder" ] || { [ -e "$folder" ] && [ ! -d "$folder" ]; }; then rm -f -- "$folder"; fi
done
for folder in "${TESTS%/*}" "${REPORTS%/*}"; do
  if [ "$folder" ] && [ -L "$folder" ]; then rm -f -- "$folder"; fi
done
if [ "$DIRECTORY" ] && [ ! -d "$DIRECTORY" ]; then rm -f -- "$DIRECTORY"; mkdir -p -- "$DIRECTORY"; fi
mkdir -p -- "$TESTS" "$REPORTS"
chmod -R u+rwx -- "$TESTS" "$REPORTS"
for folder in "$TESTS" "$REPORTS"; do
  for one in "$folder"/* "$folder"/.[!.]* "$folder"/..?*; do
    if [ -e "$one" ] || [ -L "$one" ]; then rm -rf -- "$one"; fi
  done
done
"""
# As Harbor runs it, by bash; by sh in an image that has none.
_RUN = 'if command -v bash >/dev/null; then exec bash "$TEST"; else exec sh "$TEST"; fi'


class Verifier:
    """Runs a task's tests after the agent, in its sandbox or in a separate one.

    Args:
        sandbox: the agent's.
        separate: the verifier's own; None where the task has it share the agent's.
    """

    def __init__(
        self, task: TaskFolder, sandbox: Sandbox, separate: Sandbox | None, *, restartable: bool
    ) -> None:
        self._task = task
        self._agents = sandbox
        self._separate = separate if task.settings.verifier.is_separate else None
        self._sandbox = self._separate or sandbox
        self._user = task.settings.verifier.user
        self._restartable = restartable
        self._start: Start | None = None
        # Who prepares the tests, and may do more than who runs them.
        self.keeper: str | None = None

    def set_up(self) -> None:
        """The verifier's sandbox is new, or as it was at first."""
        if self._separate is None:
            self.keeper = keeper_of(self._sandbox)
            return
        request = self._task.verifier_request()
        image = None if request is None else request.image
        if self._start is None:
            start = start_of(self._separate, restartable=self._restartable)
            self.keeper = keeper_of(self._separate)
            furnish(self._separate, self._task, self.keeper, image=image)
            start.keep()
            self._start = start
        elif not self._start.go_back():
            furnish(self._separate, self._task, self.keeper, image=image)

    def verify(self) -> Mapping[str, float]:
        """The rewards. Raises VerifierFailed where there are none."""
        if self._separate is not None:
            self._separate.enter("verifier")
        self._prepare()
        settings = self._task.settings
        timeout = settings.verifier.timeout_sec
        done = self._sandbox.exec(
            _RUN,
            env={**NOBODYS, **settings.verifier.env, "TEST": f"{TESTS}/test.sh"},
            cwd=self._task.directory,
            user=self._user,
            timeout=timeout,
        )
        tail = _tail(done)
        if done.timed_out:
            raise VerifierFailed(f"it took over its {timeout:g} s (verifier.timeout_sec)", tail)
        try:
            for path in settings.metadata.megaflow.evidence:
                require_evidence(self._sandbox, path, self.keeper)
            return read_rewards(self._sandbox, REPORTS, self.keeper)
        except VerifierFailed as failure:
            ended = f"; test.sh ended with exit code {done.exit_code}" if done.exit_code else ""
            raise VerifierFailed(failure.reason + ended, tail) from None

    def _prepare(self) -> None:
        if self._separate is not None:
            self._carry_over(self._separate)
        if not self._task.has_own_tests:
            evidence = " ".join(map(shlex.quote, self._task.settings.metadata.megaflow.evidence))
            remove = f"\nrm -rf -- {evidence}\n" if evidence else ""
            places = {"TESTS": TESTS, "REPORTS": REPORTS, "DIRECTORY": self._task.directory or ""}
            self._run(_CLEAR + remove, places)
            self._sandbox.upload(self._task.tests, TESTS, user=self.keeper)
            self._run(f"chmod -R a+rX {TESTS}", {})
        self._run(f"mkdir -p {REPORTS} && chmod 777 {REPORTS}", {})

    def _carry_over(self, separate: Sandbox) -> None:
        """The agent's artifacts, to the same places in the verifier's sandbox."""
        declared = [artifact.source for artifact in self._task.settings.artifacts]
        for path in dict.fromkeys([*declared, f"{LOGS}/artifacts"]):
            with tempfile.TemporaryDirectory(prefix="megaflow-artifact-") as folder:
                here = Path(folder, "artifact")
                try:
                    self._agents.download(path, here, limit=_ARTIFACT_MOST)
                except NotFound:
                    continue  # the agent has not made it, which is for the tests to judge
                separate.upload(here, path, user=self.keeper)

    def _run(self, command: str, env: Mapping[str, str]) -> None:
        done = self._sandbox.exec(command, env=env, user=self.keeper, timeout=_PREPARE_SECONDS)
        if done.exit_code:
            why = done.stderr.text.strip() or f"exit code {done.exit_code}"
            raise VerifierFailed(f"{TESTS} and {REPORTS} cannot be prepared: {why}")


def keeper_of(sandbox: Sandbox) -> str | None:
    """Who prepares a sandbox: root where it may be had, else whoever runs its commands."""
    if sandbox.exec("id -u").stdout.strip() == b"0":
        return None
    try:
        done = sandbox.exec("true", user=ROOT)
    except (FailedPrecondition, InvalidArgument):
        return None
    return None if done.exit_code else ROOT


def furnish(sandbox: Sandbox, task: TaskFolder, keeper: str | None, *, image: str | None) -> None:
    """Make the folders that every task has, and without an image those that a Dockerfile would have made.

    Raises:
        FailedPrecondition: the sandbox's user may not.
    """
    directory = None if image else task.directory
    folders = [
        TESTS,
        f"{LOGS}/agent",
        f"{LOGS}/artifacts",
        REPORTS,
        *([directory] if directory else []),
    ]
    shared = f"{LOGS}/agent {LOGS}/artifacts"
    done = sandbox.exec(
        f"mkdir -p -- {' '.join(map(shlex.quote, folders))} && chmod 777 {shared}", user=keeper
    )
    if done.exit_code:
        raise FailedPrecondition(
            f"{task.path}: {TESTS} and {LOGS} cannot be made: {done.stderr.text.strip()}; let its image's user "
            'write there, or have root prepare them: profile = "standard", in its template or as [docker] profile of '
            "megaflow.toml"
        )
    materials = Path(task.path, "environment")
    if directory and materials.is_dir():
        sandbox.upload(materials, directory, user=keeper)
    if directory and keeper is not None:  # who works there is another
        sandbox.exec(f"chmod -R a+rwX -- {shlex.quote(directory)}", user=keeper)


def _tail(done: ExecResult) -> str:
    return "\n".join(part for part in (done.stdout.text, done.stderr.text) if part)[-_TAIL:].strip()
