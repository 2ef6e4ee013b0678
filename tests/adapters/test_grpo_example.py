"""The demonstration that learning happens, run short: rewards rise above chance, and only then are said to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples import grpo_tiny
from leftovers import place

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "grpo_tiny.py")


@pytest.mark.requires("transformers")
@pytest.mark.timeout(600)
def test_rewards_rise_with_two_seeds_of_three(tmp_path: Path) -> None:
    with place() as here:
        # Exit status 0 says that it was most of them.
        with here.start(EXAMPLE, "--updates", "12", "--out", str(tmp_path)) as process:
            try:
                printed, errors = process.communicate(timeout=550)
            finally:
                process.kill()
        assert process.returncode == 0, f"{printed}\n{errors}"
        here.assert_nothing_left()
    found = re.findall(r"seed (\d): mean reward 0\.\d+ before, 0\.\d+ ± .*: it has (\w+)", printed)
    assert [seed for seed, _ in found] == ["0", "1", "2"]
    assert sum(said == "risen" for _, said in found) >= 2
    curve = (tmp_path / "curve.csv").read_text().splitlines()
    assert curve[0] == "seed,update,mean_reward,seconds"
    assert len(curve) == 1 + 3 * 12
    assert (tmp_path / "curve.png").stat().st_size > 0


def points(*means: float) -> list[grpo_tiny.Point]:
    """Updates whose rollouts had all of the task right, or none of it, in this proportion."""
    made = []
    for version, mean in enumerate(means):
        right = round(64 * mean)
        made.append(grpo_tiny.Point(0, version, [1.0] * right + [0.0] * (64 - right), 1.0))
    return made


def test_what_is_within_chance_has_not_risen(capsys: pytest.CaptureFixture[str]) -> None:
    assert not grpo_tiny.rose(points(*[0.125] * 6))
    # 0.03 above chance, of rewards that vary by 0.36: of 320 that is 1.6 standard errors.
    assert not grpo_tiny.rose(points(*[0.155] * 6))
    assert not grpo_tiny.rose(points(1.0, *[0.125] * 5))
    assert grpo_tiny.rose(points(0.125, *[0.5] * 5))
    assert capsys.readouterr().out.count("it has not risen") == 3


@pytest.mark.parametrize(
    ("letter", "said", "reward"),
    [("a", "bcd", 1.0), ("g", "hab", 1.0), ("a", "bca", 2 / 3), ("h", "hhh", 0.0)],
)
def test_the_reward_is_the_share_that_is_right(letter: str, said: str, reward: float) -> None:
    env = grpo_tiny.NextLetters(letter)
    assert env.reset()[0] == letter
    assert env.step(said)[1:4] == (reward, True, False)
