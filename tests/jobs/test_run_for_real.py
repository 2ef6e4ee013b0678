"""`megaflow run` with nothing in place of anything: its own local server, runner and workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaflow.trajectory import ModelCall, TrajectoryReader
from megaflow_server.jobs.local import folder, running_server


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mf-") as name:
        monkeypatch.setenv("MEGAFLOW_STATE", name)
        monkeypatch.delenv("MEGAFLOW_SERVER", raising=False)
        yield Path(name)
        os.kill(json.loads((folder() / "server.json").read_text())["pid"], signal.SIGTERM)
        while running_server() is not None:
            time.sleep(0.05)


def megaflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "megaflow_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_shipped_tasks_score_1_with_their_solutions_and_0_with_nothing(state: Path) -> None:
    for agent, reward in (("oracle", 1.0), ("nop", 0.0)):
        done = megaflow(
            "run", "-d", "megaflow:terminal", "-d", "megaflow:swe", "-a", agent, "-n", "2", "--name", agent
        )  # fmt: skip
        assert done.returncode == 0, done
        facts = json.loads(megaflow("results", agent, "--json").stdout)
        assert facts["whole"]
        assert {one["reward"] for one in facts["results"]} == {reward}
    assert megaflow("compare", "oracle", "nop").returncode == 1
    assert [job["name"] for job in json.loads(megaflow("ps", "--json").stdout)] == ["nop", "oracle"]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_models_of_the_folder_answer_cost_what_they_cost_and_no_more_than_they_may(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    price = "price = { input_per_million = 1000.0, output_per_million = 2000.0 }"
    table = f'[models.mine]\nkind = "scripted"\nanswers = ["a", "b", "c"]\n{price}\n'
    (tmp_path / "megaflow.toml").write_text(table)
    (tmp_path / "t.jsonl").write_text('{"env": "CartPole-v1"}\n')
    job = ("run", "-d", "t.jsonl", "-a", "tool", "-m", "mine", "-k", "3", "-n", "2", "--name")
    done = megaflow(*job, "free")
    assert done.returncode == 0, done
    facts = json.loads(megaflow("results", "free", "--json").stdout)
    for one in facts["results"]:
        calls = [
            each for each in TrajectoryReader(one["trajectory"]) if isinstance(each, ModelCall)
        ]
        assert len(calls) == 3
        assert one["cost"] == pytest.approx(sum(each.call["cost"] for each in calls))
    assert facts["cost"] == pytest.approx(sum(one["cost"] for one in facts["results"]))
    done = megaflow(*job, "bounded", "--max-cost", "0.001")
    assert done.returncode == 1
    assert "It stopped: it may cost $0.001 (--max-cost)." in done.stdout
    facts = json.loads(megaflow("results", "bounded", "--json").stdout)
    assert {one["state"] for one in facts["results"]} == {"cancelled"}
    # Two ran at once, each with one call under way when it was spent.
    dear = [one["cost"] for one in facts["results"] if one["cost"]]
    assert 1 <= len(dear) <= 2
