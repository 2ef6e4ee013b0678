"""A row's tests: prepared before the agent begins, kept outside of the sandbox, and put back before they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from megaflow.errors import FailedPrecondition, NotFound
from megaflow.sandbox import ExecResult, Sandbox
from megaflow_envs.swe.logs import CANARIES, PARSERS, name_of
from megaflow_envs.swe.patches import paths_of
from megaflow_envs.swe.rows import DIRECTORY, Row
from megaflow_envs.verdict import NOBODYS, VerifierFailed

__all__ = ["GIT", "PreparedTests"]

# Nobody's configuration, and a repository that may belong to somebody else.
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}
_SECONDS = 300.0
_LOG_MOST = 8 << 20
_TAIL = 2000
_FOLDERS = frozenset({"test", "testing", "tests"})
# SWE-bench's images have what runs the tests in an environment of conda.
_ACTIVATE = (
    "if [ -f /opt/miniconda3/bin/activate ]; then . /opt/miniconda3/bin/activate testbed; fi\n"
)

# The tests as they are once the patch is applied: by an index and a store of objects of its own, so that
# nothing of them is left in the repository.
_PREPARE = r"""
set -e
scratch=$(mktemp -d /tmp/.megaflow-tests-XXXXXX)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/patch" <"$PATCH"
mkdir "$scratch/objects"
export GIT_ALTERNATE_OBJECT_DIRECTORIES="$(git rev-parse --absolute-git-dir)/objects"
export GIT_OBJECT_DIRECTORY="$scratch/objects" GIT_INDEX_FILE="$scratch/index"
git read-tree "$BASE"
git apply --cached --whitespace=nowarn "$scratch/patch"
git ls-files -z | tr '\0' '\n' >"$scratch/all"
while IFS= read -r path; do
  if grep -qxF -e "$path" "$scratch/all"; then printf '%s\n' "$path"; fi
done <"$WANTED" >"$scratch/kept"
grep -E '(^|/)conftest\.py$' "$scratch/all" >>"$scratch/kept" || true
sort -u "$scratch/kept" >"$scratch/paths"
mkdir "$scratch/files"
tr '\n' '\0' <"$scratch/paths" | git checkout-index -z --stdin --prefix="$scratch/files/"
tar -cf "$OUT" -C "$scratch/files" .
# What would be imported in place of a test, or of what runs it: unless it is the repository's own.
{
  sed -n 's/\.py$//p' "$scratch/paths"
  printf '%s\n' pytest pytest.py _pytest pluggy unittest unittest.py sitecustomize.py usercustomize.py
} >"$scratch/shadows"
while IFS= read -r path; do
  if ! awk -v p="$path" '$0 == p || index($0, p "/") == 1 { found = 1 } END { exit !found }' "$scratch/all"; then
    printf '%s\n' "$path"
  fi
done <"$scratch/shadows"
"""
# In place of whatever the agent has made of them, and of a conftest.py that is not the repository's.
_PUT_BACK = r"""
set -e
list=$(tar -tf "$TAR")
find . -path ./.git -prune -o -name conftest.py -print | while IFS= read -r path; do
  printf '%s\n' "$list" | grep -qxF -e "$path" || rm -rf -- "$path"
done
while IFS= read -r path; do
  folder=.
  rest=$path
  while [ "${rest#*/}" != "$rest" ]; do
    folder=$folder/${rest%%/*} rest=${rest#*/}
    if [ -L "$folder" ] || { [ -e "$folder" ] && [ ! -d "$folder" ]; }; then rm -f -- "$folder"; fi
    [ ! -d "$folder" ] || chmod u+rwx "$folder"
  done
  rm -rf -- "./$path" "$folder/__pycache__" "./${path%.py}".*.so "./${path%.py}.pyc"
done <"$PATHS"
tar -xmof "$TAR"
rm -f -- "$TAR" "$PATHS"
"""


@dataclass(frozen=True)
class PreparedTests:
    """The tests of a row.

    Attributes:
        files: a tar of them.
        paths: what is removed before they are put back, one on each line.
    """

    row: Row
    files: bytes
    paths: str

    @classmethod
    def prepare(cls, sandbox: Sandbox, row: Row) -> PreparedTests:
        """Prepare them in a sandbox with the repository, before anybody worked on it.

        Raises:
            FailedPrecondition: the repository is not what the row says, or the sandbox lacks git.
        """
        tests = [*paths_of(row.test_patch), *_files([*row.FAIL_TO_PASS, *row.PASS_TO_PASS])]
        # Also what the patch deletes.
        wanted = dict.fromkeys([*tests, *_packages(tests)])
        names = {name: f"/tmp/.megaflow-{name}" for name in ("PATCH", "WANTED", "OUT")}
        sandbox.write_file(names["PATCH"], row.test_patch)
        sandbox.write_file(names["WANTED"], _lines(wanted))
        env = {**GIT, **names, "BASE": row.base_commit}
        done = sandbox.exec(_PREPARE, cwd=DIRECTORY, env=env, timeout=_SECONDS)
        if done.exit_code:
            raise FailedPrecondition(
                f"{row.instance_id}: its tests cannot be prepared in {DIRECTORY}: {_tail(done)}"
            )
        files = sandbox.read_file(names["OUT"])
        sandbox.exec('rm -f -- "$PATCH" "$WANTED" "$OUT"', env=names)
        return cls(row, files, _lines([*wanted, *done.stdout.text.splitlines()]))

    def run(self, sandbox: Sandbox, timeout: float) -> Mapping[str, float]:
        """Put the tests back, run them, and give the rewards. Raises VerifierFailed where there are none."""
        tar, paths = "/tmp/.megaflow-tar", "/tmp/.megaflow-paths"
        sandbox.exec('rm -rf -- "$A" "$B"', env={"A": tar, "B": paths})
        sandbox.write_file(tar, self.files)
        sandbox.write_file(paths, self.paths)
        done = sandbox.exec(
            _PUT_BACK, cwd=DIRECTORY, env={"TAR": tar, "PATHS": paths}, timeout=_SECONDS
        )
        if done.exit_code:
            raise VerifierFailed("the tests cannot be put back", _tail(done))
        log = self._tests(sandbox, DIRECTORY, self.row.directives, timeout)
        statuses = PARSERS[self.row.runner[1]](log)
        if not statuses:
            self._try_canary(sandbox, log)
        return _rewards(self.row, statuses)

    def _tests(
        self, sandbox: Sandbox, folder: str, directives: Sequence[str], timeout: float
    ) -> str:
        command = f"{_ACTIVATE}{self.row.runner[0]} {' '.join(map(_quoted, directives))} 2>&1"
        done = sandbox.exec(
            command, cwd=folder, env=NOBODYS, timeout=timeout, output_limit=_LOG_MOST
        )
        if done.timed_out:
            raise VerifierFailed(f"the tests took over {timeout:g} s", _tail(done))
        return done.stdout.text

    def _try_canary(self, sandbox: Sandbox, log: str) -> None:
        """Nothing was reported: because of what the agent did, or because there is nothing that could run tests."""
        parser = self.row.runner[1]
        name, content, directive = CANARIES[parser]
        folder = "/tmp/.megaflow-canary"
        sandbox.exec('rm -rf -- "$F"', env={"F": folder})
        sandbox.write_file(f"{folder}/{name}", content)
        try:
            statuses = PARSERS[parser](self._tests(sandbox, folder, [directive], _SECONDS))
        except NotFound as error:
            raise VerifierFailed(error.message) from None
        if not any(statuses.values()):
            raise VerifierFailed(
                f"{self.row.runner[0]!r} runs no tests here, not even one that passes anywhere",
                log[-_TAIL:].strip(),
            )


def _rewards(row: Row, statuses: Mapping[str, bool]) -> Mapping[str, float]:
    shares = {}
    for name, tests in (("fail_to_pass", row.FAIL_TO_PASS), ("pass_to_pass", row.PASS_TO_PASS)):
        passed = sum(statuses.get(name_of(test), False) for test in tests)
        shares[name] = passed / len(tests) if tests else 1.0
    return {"reward": float(all(share == 1.0 for share in shares.values())), **shares}


def _files(tests: Sequence[str]) -> Sequence[str]:
    """The files that tests' names tell: pytest's path, or unittest's module, with or without its class."""
    found = []
    for test in tests:
        if "::" in test:
            found.append(test.partition("::")[0])
        elif test.endswith(")"):
            parts = name_of(test).rpartition("(")[2].rstrip(")").split(".")
            found += [
                "/".join(parts[:end]) + ".py" for end in (len(parts), len(parts) - 1) if end > 0
            ]
    return [path for path in found if not path.startswith("/") and ".." not in path.split("/")]


def _packages(tests: Sequence[str]) -> Sequence[str]:
    """What is imported before tests: the `__init__.py` of the folders that hold nothing but tests."""
    folders = [PurePosixPath(test).parent for test in tests]
    around = [
        one for folder in folders for one in (folder, *folder.parents) if one.name in _FOLDERS
    ]
    return [f"{folder}/__init__.py" for folder in dict.fromkeys(around)]


def _lines(paths: Iterable[str]) -> str:
    return "".join(f"{path}\n" for path in paths)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _tail(done: ExecResult) -> str:
    return (done.stdout.text + done.stderr.text)[-_TAIL:].strip() or f"exit code {done.exit_code}"
