"""Episodes that go on elsewhere: the files by the sandbox's snapshot, the rest by the environment's own state."""

from __future__ import annotations

from pathlib import Path

import pytest
from gymnasium.error import ResetNeeded

from megaflow.errors import FailedPrecondition
from megaflow.sandbox_proxy import SandboxProxy
from megaflow_envs.commands import CommandEnv
from megaflow_envs.shipped import swe_dataset
from megaflow_envs.swe import SWEEnv, load_row
from megaflow_envs.terminal import TerminalEnv
from task_rig import submitted, terminal, write_task

pytestmark = pytest.mark.requires("namespaces")

ROW = "megaflow__ranges-2"


def another(env: CommandEnv, sandbox: SandboxProxy) -> CommandEnv:
    """The same environment, made anew over files as they are."""
    if isinstance(env, TerminalEnv):
        return terminal(env.task.path, sandbox, max_steps=5)
    return SWEEnv("megaflow:swe", ROW, sandbox=sandbox, max_steps=5)


@pytest.fixture(params=["terminal", "swe"])
def env(request: pytest.FixtureRequest, sandbox: SandboxProxy, tmp_path: Path) -> CommandEnv:
    if request.param == "terminal":
        return terminal(write_task(tmp_path), sandbox, max_steps=5)
    return SWEEnv("megaflow:swe", ROW, sandbox=sandbox, max_steps=5)


def test_the_same_commands_come_to_the_same_after_it(
    env: CommandEnv, sandbox: SandboxProxy
) -> None:
    env.reset()
    env.step(
        "mkdir -p '/tmp/a b'; cd '/tmp/a b'; export ONE=\"it's\"; export TWO='a\nb'; echo x >file"
    )
    state = env.get_state()
    look = 'pwd; ls; printf "%s|" "$ONE" "$TWO"'
    expected = env.step(look)
    again = another(env, sandbox)
    again.set_state(state)
    assert again.step(look) == expected
    assert expected[0] == "/tmp/a b\nfile\nit's|a\nb|"
    # Steps go on being counted, and the verifier knows what it has to.
    if isinstance(env, TerminalEnv):
        again.step("echo 42 >/app/answer")
    else:
        patch = load_row(swe_dataset("megaflow:swe"), ROW).patch
        assert again.step(f"cd /testbed; git apply <<'END'\n{patch}END\n")[0] == ""
    assert again.step("true")[3] is False
    _, reward, _, truncated, info = again.step("true")
    assert (reward, truncated, info["valid"]) == (1.0, True, True)
    with pytest.raises(FailedPrecondition, match="began from a snapshot"):
        again.reset()


def test_an_episode_goes_back_to_where_it_was(env: CommandEnv) -> None:
    env.reset()
    env.step("export ONE=1")
    state = env.get_state()
    env.step("exit 3")
    assert env.get_state()["shell"] == ""
    env.set_state(state)
    assert env.step("echo $ONE")[0] == "1"
    assert submitted(env) == 0.0
    with pytest.raises(ResetNeeded):
        env.get_state()
    env.reset()
    assert env.step("echo -$ONE-")[0] == "--"
