from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megaflow_server.cli import app
from megaflow_server.orchestrator.simulation.capacity import (
    MODES,
    Answer,
    Question,
    answer,
    answers,
)

SMALL = Question(tasks=200, nodes=50, minutes=10.0, spread=0.0)


def of(mode: str, question: Question = SMALL, tasks: int = 200) -> Answer:
    return answer(question, mode, tasks)


def test_machines_that_stay_take_one_task_after_the_other() -> None:
    found = of("persistent")
    rounds = 200 / 50
    assert found.hours == pytest.approx(rounds * (10 * 60 + 45) / 3600)
    assert found.utilisation == pytest.approx(600 / 645)
    assert found.cost == pytest.approx(50 * found.hours * 0.30)


def test_new_machines_come_one_after_the_other() -> None:
    question = Question(tasks=1000, nodes=1000)
    assert answer(question, "ephemeral", 1).start_up_most == pytest.approx(60)
    # The paper's: from one minute to six between 1 and 1,000 tasks.
    assert answer(question, "ephemeral", 1000).start_up_most == pytest.approx(360, rel=0.01)


def test_of_new_machines_only_their_lives_are_paid_for() -> None:
    found = of("ephemeral")
    assert found.cost == pytest.approx(200 * (600 + 60) / 3600 * 0.30)


def test_the_papers_saving_comes_out() -> None:
    question = Question(tasks=2000, nodes=2000)
    small, large = (answer(question, mode, 2000).cost for mode in ("persistent", "large"))
    assert 1 - small / large == pytest.approx(0.32, abs=0.02)


def test_the_same_seed_gives_the_same_answers_in_processes_of_their_own() -> None:
    found = answers(SMALL, [1, 200])
    assert found == [of(mode, tasks=count) for mode in MODES for count in (1, 200)]


def test_the_command_answers_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawing = tmp_path / "curves.png"
    asked = ["simulate", "--tasks", "30", "--nodes", "10", "--json", "--out", str(drawing)]
    made = CliRunner().invoke(app, asked)
    assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)
    assert {(one["mode"], one["tasks"]) for one in said["answers"]} == {
        (mode, count) for mode in MODES for count in (1, 10, 30)
    }
    assert drawing.read_bytes().startswith(b"\x89PNG")
    table = CliRunner().invoke(app, ["simulate", "--tasks", "3", "--nodes", "2"])
    assert "persistent" in table.output


@pytest.mark.parametrize("option", ["--tasks", "--nodes", "--large-slots", "--task-minutes"])
def test_what_cannot_be_asked_is_refused(option: str) -> None:
    made = CliRunner().invoke(app, ["simulate", option, "0"])
    assert made.exit_code == 2
    assert option in made.output
