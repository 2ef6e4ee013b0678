from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from megaflow.sandbox_proxy import SandboxProxy
from megaflow_envs.commands import SUBMIT
from megaflow_envs.shipped import swe_dataset
from megaflow_envs.swe import SWEEnv
from megaflow_envs.verdict import VerifierFailed
from sandbox_host import SandboxHost
from task_rig import SETTINGS, outcome, terminal, write_task

pytestmark = pytest.mark.requires("namespaces")

ANSWER = "echo 42 >/app/answer"
REWARD = "mkdir -p /logs/verifier; echo 1 >/logs/verifier/reward.txt\n"
REPORT = "/logs/verifier/ctrf.json"
EVIDENCE = SETTINGS + f'evidence = ["{REPORT}"]\n'


def wrote(report: str) -> str:
    return REWARD + f"echo '{report}' >{REPORT}\n"


INVALID = {
    "no reward": (SETTINGS, "echo said; exit 3\n", "neither /logs/verifier/reward.txt nor"),
    "no number": (SETTINGS, "echo one >/logs/verifier/reward.txt\n", "'one', which is no number"),
    "nan": (SETTINGS, "echo nan >/logs/verifier/reward.txt\n", "nan is no finite number"),
    "no json": (SETTINGS, "echo '{' >/logs/verifier/reward.json\n", "reward.json is no JSON"),
    "no headline": (
        SETTINGS,
        'echo \'{"a": 1, "b": 0}\' >/logs/verifier/reward.json\n',
        "none of them is called 'reward'",
    ),
    "a boolean": (SETTINGS, "echo true >/logs/verifier/reward.json\n", "True is no finite number"),
    # As the verifiers of many tasks are written: what is missing counts as failed there.
    "its tool is missing": (
        EVIDENCE,
        f"uvx-of-nowhere pytest --ctrf {REPORT}\n"
        "if [ $? -eq 0 ]; then echo 1; else echo 0; fi >/logs/verifier/reward.txt\n",
        f"report {REPORT} is absent",
    ),
    "an empty report": (EVIDENCE, REWARD + f": >{REPORT}\n", "is empty"),
    "a broken report": (EVIDENCE, wrote("{"), "is no JSON"),
    "a report of nothing": (
        EVIDENCE,
        wrote('{"results": {"summary": {"tests": 0}}}'),
        "has no test in it",
    ),
    "no time": (SETTINGS + "\n[verifier]\ntimeout_sec = 0.3\n", "sleep 60\n", "over its 0.3 s"),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_verifier_that_could_not_do_its_work_gives_no_reward(
    case: str, sandbox: SandboxProxy, tmp_path: Path
) -> None:
    settings, test, reason = INVALID[case]
    env = terminal(write_task(tmp_path, settings, test), sandbox)
    said = outcome(env, ANSWER)
    assert isinstance(said, str)
    assert reason in said
    with pytest.raises(VerifierFailed) as failed:
        env.evaluate()
    assert failed.value.reason == said


def test_what_it_said_last_is_told(sandbox: SandboxProxy, tmp_path: Path) -> None:
    env = terminal(write_task(tmp_path, test="echo out; echo why >&2; exit 3\n"), sandbox)
    env.reset()
    _, reward, *_, info = env.step(SUBMIT)
    assert math.isnan(reward)
    assert info["failure"]["log_tail"] == "out\n\nwhy"
    assert "exit code 3" in info["failure"]["reason"]


def test_an_old_report_of_the_agents_is_no_evidence(sandbox: SandboxProxy, tmp_path: Path) -> None:
    report = '{"results": {"summary": {"tests": 3}}}'
    settings = SETTINGS + 'evidence = ["/app/report.json"]\n'
    env = terminal(write_task(tmp_path, settings, REWARD), sandbox)
    said = outcome(env, f"echo '{report}' >/app/report.json")
    assert said == "its report /app/report.json is absent, without which no verdict counts"


def test_named_rewards(sandbox: SandboxProxy, tmp_path: Path) -> None:
    rewards = {"reward": 0.5, "style": 2, "speed": -1.5}
    test = f"echo '{json.dumps(rewards)}' >/logs/verifier/reward.json\n"
    env = terminal(write_task(tmp_path, test=test), sandbox)
    env.reset()
    _, reward, terminated, _, info = env.step(SUBMIT)
    assert (reward, terminated, info["valid"], info["rewards"]) == (0.5, True, True, rewards)
    assert env.evaluate() == rewards


def test_the_verifiers_own_environment_and_folder(sandbox: SandboxProxy, tmp_path: Path) -> None:
    settings = (
        SETTINGS + '\n[environment]\nworkdir = "/app/sub"\n\n[verifier]\nenv = { WORTH = "0.25" }\n'
    )
    test = '[ "$PWD" = /app/sub ] && echo "$WORTH" >/logs/verifier/reward.txt\n'
    assert outcome(terminal(write_task(tmp_path, settings, test), sandbox)) == 0.25


def test_a_runner_that_is_missing_is_no_0(sandbox: SandboxProxy, tmp_path: Path) -> None:
    row = json.loads(swe_dataset("megaflow:swe").read_text().splitlines()[0])
    row["test_cmd"] = "python-of-nowhere -m unittest -v"
    dataset = tmp_path / "tasks.jsonl"
    dataset.write_text(json.dumps(row))
    said = outcome(SWEEnv(str(dataset), row["instance_id"], sandbox=sandbox))
    assert "runs no tests here" in str(said)


def test_shares_of_tests(sandbox: SandboxProxy) -> None:
    env = SWEEnv("megaflow:swe", "megaflow__ranges-2", sandbox=sandbox)
    env.reset()
    env.step("sed -i 's/high - low for/high - low + 1 for/' ranges.py")
    *_, info = env.step(SUBMIT)
    assert info["rewards"] == {"reward": 0.0, "fail_to_pass": 0.5, "pass_to_pass": 1.0}


def test_a_verifier_of_its_own(host: SandboxHost, sandbox: SandboxProxy, tmp_path: Path) -> None:
    settings = 'artifacts = ["/app/answer", "/app/absent"]\n' + SETTINGS
    settings += '\n[verifier]\nenvironment_mode = "separate"\n'
    own = host.make("process")
    try:
        env = terminal(write_task(tmp_path, settings), sandbox, verifier_sandbox=own)
        # What the agent does to its own sandbox does not matter there.
        spoil = "mkdir -p /tests; echo 'echo 1 >/logs/verifier/reward.txt' >/tests/test.sh"
        assert outcome(env, "echo 41 >/app/answer", spoil) == 0.0
        assert outcome(env, ANSWER, spoil) == 1.0
        # Nor does what there was in the episode before.
        assert outcome(env) == 0.0
    finally:
        host.destroy(own)
