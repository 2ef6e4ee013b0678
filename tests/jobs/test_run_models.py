"""What the names of a job's models mean: the configuration in force, when the job is submitted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import megaflow
from commands import Command
from job_site import Site, rewarded
from megaflow.errors import InvalidArgument, NotFound
from megaflow.protocol import megaflow_pb2 as pb
from megaflow_server.jobs import local
from megaflow_server.jobs.local import _lacking, digests
from megaflow_server.jobs.manifest import Manifest, manifest_of
from megaflow_server.jobs.run_models import RunModels, run_models
from megaflow_server.models.pins import named, put

UPSTREAM = 'base_urls = ["http://127.0.0.1:1/v1"]\nmodel = "org/name"\n'
TEXT = f"""
[models.policy]
kind = "openai"
{UPSTREAM}api_key_env = "POLICY_KEY"
price = {{ input_per_million = 0.15, output_per_million = 0.6 }}

[models.grader]
kind = "echo"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a configuration in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEGAFLOW_CONFIG", raising=False)
    monkeypatch.setenv("POLICY_KEY", "sk-1")
    (tmp_path / "megaflow.toml").write_text(TEXT)
    return tmp_path


def test_names_of_the_configuration_become_pins_and_others_stay(here: Path) -> None:
    models = run_models(["policy", "echo", "module:Class"], None, here)
    task = megaflow.Task(
        "e", "a", models={"policy": "policy", "grader": "echo", "x": "module:Class"}
    )
    asked = models.of(task)
    assert named(asked["policy"]) == "policy"
    assert (asked["grader"], asked["x"]) == ("echo", "module:Class")
    assert models.keys == models.withheld == {"POLICY_KEY"}
    assert run_models(["grader"], None, here).keys == frozenset()
    assert run_models([], None, here).withheld == {"POLICY_KEY"}


def test_the_file_is_the_option_else_the_variable_else_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "other.toml").write_text('[models.mine]\nkind = "echo"\n')
    assert run_models(["mine"], here / "other.toml", here).pins
    monkeypatch.setenv("MEGAFLOW_CONFIG", str(here / "other.toml"))
    assert run_models(["mine"], None, here).pins
    with pytest.raises(NotFound):
        run_models(["policy"], None, here)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind = 1", "megaflow.toml: models.m.kind = 1: give text"),
        ('kind = "ecko"', "megaflow.toml: models.m.kind = 'ecko': is no kind of model; did you mean 'echo'?"),
        ('kind = "echo"\ndelai = 1', "megaflow.toml: models.m.delai: unknown key; did you mean delay?"),
        (f'kind = "openai"\n{UPSTREAM}api_key_env = "NONE"', "models.m.api_key_env: $NONE is not set"),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_names_the_file_the_table_and_the_key(
    here: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NONE", raising=False)
    (here / "megaflow.toml").write_text(f"[models.m]\n{text}\n")
    with pytest.raises(InvalidArgument) as raised:
        run_models(["m"], None, here)
    assert said in raised.value.message


def test_an_unknown_name_is_told_with_those_of_the_configuration(here: Path) -> None:
    with pytest.raises(NotFound, match="did you mean 'grader'") as raised:
        run_models(["gradr"], None, here)
    assert "policy" in raised.value.message


def test_where_the_cost_is_limited_each_has_a_price(here: Path) -> None:
    assert run_models(["policy"], None, here, priced=True).pins
    for name in ("grader", "echo"):
        with pytest.raises(InvalidArgument, match=f"model '{name}' has no price.*--unpriced"):
            run_models([name], None, here, priced=True)


def test_paths_are_those_of_the_folder_of_the_run(here: Path) -> None:
    (here / "key").write_text("sk-2")
    text = f'[models.m]\nkind = "openai"\n{UPSTREAM}api_key_file = "key"\n'
    (here / "megaflow.toml").write_text(text)
    (table,) = run_models(["m"], None, here).tables.values()
    assert table.settings["api_key_file"] == str(here / "key")


def test_a_job_that_is_resumed_finds_its_models_elsewhere_but_no_others(here: Path) -> None:
    before = run_models(["policy"], None, here)
    pins = list(before.tables)
    put(here / "kept", before.tables.values())
    moved = TEXT.replace("127.0.0.1:1", "127.0.0.1:2")
    (here / "megaflow.toml").write_text(moved)
    now = run_models(pins, None, here / "kept")
    assert now.pins[pins[0]] not in pins
    (here / "megaflow.toml").write_text(TEXT.replace("org/name", "org/other"))
    with pytest.raises(InvalidArgument, match="was kind='openai', model='org/name' in this job"):
        run_models(pins, None, here / "kept")
    (here / "megaflow.toml").write_text("")
    assert run_models(pins, None, here / "kept").tables == before.tables


def test_a_manifest_says_what_models_were_and_no_key(
    here: Path, site: Site, tasks: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEGAFLOW_SERVER")
    given: dict[str, Any] = {}

    @contextlib.contextmanager
    def use(concurrency: int | None = None, **options: Any) -> Iterator[local.LocalServer]:
        given.update(options)
        yield local.LocalServer(here, site.address, started=False)

    monkeypatch.setattr("megaflow_server.jobs.running.use_local_server", use)
    local.folder().mkdir(parents=True)
    done = command("run", "-d", str(tasks), "-a", "random", "-m", "policy", "--name", "mon")
    assert done.status == 0, done
    assert given == {"keys": {"POLICY_KEY"}, "withheld": {"POLICY_KEY"}}
    with megaflow.Client(site.address) as client:
        manifest = manifest_of(client.job("mon"))
        content = client.job("mon").manifest()
    assert isinstance(manifest, Manifest)
    assert content is not None
    ((pin, said),) = manifest.models.items()
    assert manifest.tasks[0].task.models == {"policy": pin}
    assert said == {
        "kind": "openai",
        "model": "org/name",
        "base_urls": ["http://127.0.0.1:1/v1"],
        "price": {"input_per_million": 0.15, "output_per_million": 0.6},
    }
    assert [file.name for file in local.models_folder().iterdir()] == [
        f"{pin.partition('@')[2]}.json"
    ]


def test_models_of_a_server_that_is_named_are_its_own(
    site: Site, tasks: Path, command: Command
) -> None:
    done = command("run", "-d", str(tasks), "-a", "random", "-m", "theirs", "--name", "mon")
    assert done.status == 0, done
    done = command("run", "-d", str(tasks), "-a", "random", "--config", "megaflow.toml")
    assert done.status == 2
    assert "models are those of the runners of" in done.err


def test_a_key_that_changed_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    had = local.LocalServer(Path(), "", False, 1, digests(["POLICY_KEY", "OTHER"]))
    assert "sk-1" not in json.dumps(dict(had.keys))
    assert _lacking(had, ["POLICY_KEY"]) == []
    monkeypatch.setenv("OTHER", "set since")
    assert _lacking(had, ["POLICY_KEY", "OTHER"]) == ["OTHER"]
    monkeypatch.setenv("POLICY_KEY", "sk-2")
    assert _lacking(had, ["POLICY_KEY"]) == ["POLICY_KEY"]
    assert RunModels().keys == frozenset()


def costing(cost: float) -> pb.Outcome:
    outcome = rewarded(1.0)
    outcome.cost.known = cost
    return outcome


def test_a_run_that_has_cost_what_it_may_says_so(site: Site, tasks: Path, command: Command) -> None:
    site.executed = lambda attempt: costing(0.5)
    done = command("run", "-d", str(tasks), "-a", "random", "--name", "mon", "--max-cost", "2")
    assert done.status == 0, done
    assert "Its calls of models have cost $1.5." in done.out
    assert "mean reward 1.000, $1.5 of $2, after" in done.out
    assert "stopped" not in done.out
    facts = json.loads(command("report", "mon", "--json").out)
    assert (facts["cost"], facts["cost_per_task"], facts["cost_per_valid_sample"]) == (
        1.5,
        0.5,
        0.5,
    )
    site.executed = lambda attempt: costing(0.5) if attempt.sample else died(attempt)
    job = ("run", "-d", str(tasks), "-a", "random", "-k", "40", "--name", "two")
    done = command(*job, "--max-cost", "0.75")
    assert done.status == 1
    assert "It stopped: it may cost $0.75 (--max-cost)." in done.out
    facts = json.loads(command("results", "two", "--json").out)
    assert facts["spent"]
    last = facts["results"][-1]
    assert (last["state"], last["cost"]) == ("cancelled", 0.0)
    assert "max_cost: the job may cost $0.75, and has cost $" in command("why", last["id"]).out
    again = command("run", "--resume", "two")
    assert again.status == 2
    assert "say what its rest may cost, with --max-cost" in again.err
    assert "--unpriced goes with --max-cost" in command("run", "--resume", "two", "--unpriced").err
    site.executed = lambda attempt: costing(0.25)
    again = command("run", "--resume", "two", "--max-cost", "100")
    facts = json.loads(command("results", "two", "--json").out)
    assert not facts["spent"]
    # What both jobs have cost, broken samples included.
    assert facts["cost"] == pytest.approx(sum(job["cost"] for job in jobs_named(command, "two")))


def jobs_named(command: Command, name: str) -> list[dict[str, Any]]:
    return [job for job in json.loads(command("ps", "--json").out) if job["name"] == name]


def died(attempt: pb.Attempt) -> pb.Outcome:
    failure = pb.TaskFailure(kind="verifier", phase="evaluating", reason="broken")
    return pb.Outcome(valid=False, failure=failure, cost=pb.Cost(known=0.25))


def test_what_is_not_known_is_not_0(site: Site, tasks: Path, command: Command) -> None:
    def executed(attempt: pb.Attempt) -> pb.Outcome:
        outcome = costing(0.5)
        outcome.cost.unknown = int(attempt.group == "b")
        return outcome

    site.executed = executed
    command("run", "-d", str(tasks), "-a", "random", "--name", "mon")
    facts = json.loads(command("results", "mon", "--json").out)
    assert [one["cost"] for one in facts["results"]] == [0.5, None, 0.5]
    assert (facts["cost"], facts["known_cost"]) == (None, 1.5)
    facts = json.loads(command("report", "mon", "--json").out)
    assert (facts["cost"], facts["cost_per_task"], facts["cost_per_valid_sample"]) == (None,) * 3
    assert "unknown, over $1.5" in command("report", "mon").out
    site.executed = lambda attempt: rewarded(1.0)
    command("run", "-d", str(tasks), "-a", "random", "--name", "two")
    assert json.loads(command("report", "two", "--json").out)["cost"] is None


def test_a_job_file_may_say_what_the_job_may_cost(site: Site, here: Path, command: Command) -> None:
    file = here / "job.toml"
    task = '[[tasks]]\nenv = "CartPole-v1"\nagent = "random"\n'
    file.write_text(f"max_cost = 1.5\nunpriced = true\n{task}")
    assert command("run", "-d", str(file), "--name", "mon").status == 0
    assert json.loads(command("ps", "--json").out)[0]["max_cost"] == 1.5
    file.write_text(f"unpriced = true\n{task}")
    assert "give --max-cost, or leave it out" in command("run", "-d", str(file)).err
    file.write_text(f"max_cost = -1.0\n{task}")
    done = command("run", "-d", str(file))
    assert done.status == 2
    assert f"{file}:1" in done.err
