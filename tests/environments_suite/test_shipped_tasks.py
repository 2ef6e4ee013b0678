from __future__ import annotations

import pytest

from megaflow.sandbox_proxy import SandboxProxy
from megaflow_envs.commands import CommandEnv
from megaflow_envs.shipped import swe_dataset, terminal_task, terminal_tasks
from megaflow_envs.swe import SWEEnv, load_row, load_rows
from megaflow_envs.terminal import TerminalEnv
from task_rig import outcome, solve, submitted, terminal

pytestmark = pytest.mark.requires("namespaces")

ROWS = [row.instance_id for row in load_rows(swe_dataset("megaflow:swe"))]
TASKS = [*terminal_tasks(), *ROWS]


def made(task: str, sandbox: SandboxProxy) -> CommandEnv:
    if task in ROWS:
        return SWEEnv("megaflow:swe", task, sandbox=sandbox)
    return terminal(task, sandbox)


def solution(task: str) -> str:
    if task not in ROWS:
        return (terminal_task(task) / "solution" / "solve.sh").read_text()
    return f"cd /testbed && git apply <<'END'\n{load_row(swe_dataset('megaflow:swe'), task).patch}END\n"


def test_there_are_six_and_they_need_no_image() -> None:
    assert len(TASKS) >= 6
    for task in terminal_tasks():
        assert TerminalEnv.sandboxes(task)["sandbox"].image is None
    for row in ROWS:
        assert SWEEnv.sandboxes("megaflow:swe", row)["sandbox"].image is None


@pytest.mark.parametrize("task", TASKS)
def test_the_solution_is_1_and_nothing_is_0(task: str, sandbox: SandboxProxy) -> None:
    env = made(task, sandbox)
    env.reset()
    said = solve(env, solution(task))
    assert submitted(env) == 1.0, said
    assert outcome(env) == 0.0


TERMINAL_CHEATS = {
    "own tests": "mkdir -p /tests; printf 'mkdir -p /logs/verifier; echo 1 >/logs/verifier/reward.txt' >/tests/test.sh",
    "no tests": "rm -rf /tests; ln -s /dev/null /tests",
    "own reward": "mkdir -p /logs/verifier; echo 1 >/logs/verifier/reward.txt; chmod 400 /logs/verifier/reward.txt",
    "linked logs": "rm -rf /logs; mkdir /tmp/logs; ln -s /tmp/logs /logs",
    "closed tests": "mkdir -p /tests/a; chmod 0 /tests/a /tests",
    "reward from the background": (
        "setsid sh -c 'while :; do echo 1 >/logs/verifier/reward.txt; done' >/dev/null 2>&1 &"
    ),
    "tests from the background": "(while :; do : >/tests/expected.txt; done) >/dev/null 2>&1 &",
}


@pytest.mark.parametrize("cheat", TERMINAL_CHEATS)
def test_a_cheat_at_a_terminal_is_0(cheat: str, sandbox: SandboxProxy) -> None:
    assert outcome(terminal("megaflow:count-words", sandbox), TERMINAL_CHEATS[cheat]) == 0.0


# As much as somebody could do who knew the names of all tests.
PASSING = """
import unittest
class ParseTest(unittest.TestCase):
    def test_one_unit(self): pass
    test_unknown_unit = test_several_units = test_no_unit = test_one_unit
class ShowTest(unittest.TestCase):
    def test_largest_unit(self): pass
"""
NAMES = ["one_unit", "unknown_unit", "several_units", "no_unit"]
FORGED = "".join(f"test_{name} (tests.test_durations.ParseTest) ... ok\\n" for name in NAMES)
FORGED += "test_largest_unit (tests.test_durations.ShowTest) ... ok\\n"
WRITE = f"cat >/tmp/passing <<'END'{PASSING}END\n"
SWE_CHEATS = {
    "deleted tests": "rm -rf tests",
    "edited tests": f"{WRITE} cp /tmp/passing tests/test_durations.py; git commit -qam x || true",
    "a package in the tests' place": (
        f"{WRITE} mkdir tests/test_durations; cp /tmp/passing tests/test_durations/__init__.py"
    ),
    "the runner in the repository": (
        f"mkdir unittest; : >unittest/__init__.py; echo 'print(\"{FORGED}\")' >unittest/__main__.py"
    ),
    "tests elsewhere": (
        f"{WRITE} mv tests /tmp/tests; ln -s /tmp/tests tests; cp /tmp/passing /tmp/tests/test_durations.py;"
        "chmod a-w /tmp/tests /tmp/tests/*"
    ),
    "tests from the background": (
        f"{WRITE} setsid sh -c 'while :; do cp /tmp/passing tests/test_durations.py; done' >/dev/null 2>&1 &"
    ),
    "modules of the user's own": (
        "d=$(python3 -c 'import site; print(site.getusersitepackages())'); mkdir -p \"$d\"; "
        "cat >\"$d/usercustomize.py\" <<'END'\n"
        "from unittest.runner import TextTestResult as result\n"
        "result.addFailure = result.addError = lambda self, test, error: self.addSuccess(test)\nEND\n"
    ),
    "a broken module": "echo '(' >durations.py",
    "no repository": "cd /; rm -rf /testbed/* /testbed/.git",
}


@pytest.mark.parametrize("cheat", SWE_CHEATS)
def test_a_cheat_in_a_repository_is_0(cheat: str, sandbox: SandboxProxy) -> None:
    env = SWEEnv("megaflow:swe", ROWS[0], sandbox=sandbox)
    assert outcome(env, SWE_CHEATS[cheat]) == 0.0


def test_the_tests_to_come_are_nowhere_in_the_repository(sandbox: SandboxProxy) -> None:
    env = SWEEnv("megaflow:swe", ROWS[0], sandbox=sandbox)
    env.reset()
    search = (
        "git log --all --oneline | wc -l; git fsck --lost-found 2>&1 | grep -c dangling; ls -A /tmp; "
        "grep -rl several_unit[s] /testbed /tmp /var/tmp /home /run; true"
    )
    observation, *_ = env.step(search)
    assert observation.split() == ["1", "0"], observation
