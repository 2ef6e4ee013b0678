from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaflow.errors import InvalidArgument, NotFound
from megaflow_server.jobs.datasets import Broken, Entry, read_dataset
from megaflow_server.jobs.plan import Options, models_of, plan_of
from task_rig import write_task

TASK = {"env": "CartPole-v1", "agent": "random"}


def options(*datasets: object, **others: object) -> Options:
    return Options(tuple(map(str, datasets)), **{"agent": "random", **others})  # type: ignore[arg-type]


def lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def test_a_folder_of_tasks_with_a_broken_one(tmp_path: Path) -> None:
    write_task(tmp_path / "a")
    write_task(tmp_path / "b", settings="[metadata]\nauthor = [\n")
    write_task(tmp_path / "c")
    plan = plan_of(options(tmp_path))
    assert [name for name, _, _ in plan.tasks] == ["a", "c"]
    assert plan.tasks[0][2].env == "megaflow/Terminal-v0"
    assert plan.tasks[0][2].env_kwargs == {"task": str(tmp_path / "a")}
    (broken,) = plan.broken
    assert broken.name == "b"
    assert f"{tmp_path}/b/task.toml:" in broken.reason


def test_a_task_changes_its_digest_with_whatever_is_in_it(tmp_path: Path) -> None:
    write_task(tmp_path / "a")
    (before,) = read_dataset(str(tmp_path))
    (tmp_path / "a" / "solution" / "solve.sh").write_text("echo 43 >/app/answer\n")
    (after,) = read_dataset(str(tmp_path))
    assert isinstance(before, Entry)
    assert isinstance(after, Entry)
    assert before.digest != after.digest


def test_lines_of_tasks(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "tasks.jsonl",
        {**TASK, "name": "pole", "limits": {"start_to_close": 60}, "seed": 3},
        "{",
        {**TASK, "env_kwarg": {}},
        {**TASK, "limits": {"start_to_close": -1}},
        TASK,
        {**TASK, "name": "pole"},
    )
    found = list(plan_of(options(file)).tasks)
    assert [name for name, _, _ in found] == ["pole", "CartPole-v1 (line 5)", "pole #2"]
    assert found[0][2].limits.start_to_close == 60
    assert found[0][2].seed == 3
    wrong = [one.reason for one in read_dataset(str(file)) if isinstance(one, Broken)]
    assert wrong[0].startswith(f"{file}:2: no JSON: ")
    assert wrong[1] == f"{file}:3: unknown key env_kwarg; did you mean 'env_kwargs'?"
    assert wrong[2] == f"{file}:4: limits.start_to_close = -1: give more than 0"


def test_rows_of_swe_bench_with_broken_ones(tmp_path: Path) -> None:
    shipped = list(read_dataset("megaflow:swe"))
    assert shipped
    assert all(isinstance(one, Entry) for one in shipped)
    import megaflow_envs.shipped as ships

    rows = ships.swe_dataset("megaflow:swe").read_text().splitlines()
    lacking = {name: value for name, value in json.loads(rows[0]).items() if name != "test_patch"}
    lacking["instance_id"] = "lacking"
    file = lines(tmp_path / "rows.jsonl", rows[0], "{", lacking, rows[1], rows[0])
    found = list(read_dataset(str(file)))
    good, bad = (
        json.loads(rows[0])["instance_id"],
        [one for one in found if isinstance(one, Broken)],
    )
    assert [one.name for one in bad] == ["line 2", "lacking", f"{good} (line 5)"]
    assert "no test_patch" in bad[1].reason
    assert "the name of an earlier row" in bad[2].reason
    first = found[0]
    assert isinstance(first, Entry)
    assert first.table.env_kwargs == {"dataset": str(file), "instance_id": good}


def test_a_row_is_found_behind_one_that_is_no_json(tmp_path: Path) -> None:
    from megaflow_envs.shipped import swe_dataset
    from megaflow_envs.swe import load_row

    rows = swe_dataset("megaflow:swe").read_text().splitlines()
    file = lines(tmp_path / "rows.jsonl", "{", rows[0])
    name = json.loads(rows[0])["instance_id"]
    assert load_row(file, name).instance_id == name


def test_what_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(NotFound, match=r"no such file or folder"):
        plan_of(options(tmp_path / "absent"))
    with pytest.raises(NotFound, match=r"no task there"):
        plan_of(options(tmp_path))
    with pytest.raises(InvalidArgument, match=r"no dataset"):
        plan_of(options(tmp_path / "notes.txt"))
    with pytest.raises(InvalidArgument, match=r"no task in it"):
        plan_of(options(tmp_path / "empty.jsonl"))
    with pytest.raises(NotFound, match=r"did you mean 'megaflow:swe'"):
        plan_of(options("megaflow:swee"))
    with pytest.raises(InvalidArgument, match=r"all 1 are broken:\n  line 1: .*no JSON"):
        plan_of(options(lines(tmp_path / "tasks.jsonl", "{")))
    with pytest.raises(InvalidArgument, match=r"pole names no agent: say -a AGENT"):
        plan_of(Options((str(lines(tmp_path / "t.jsonl", {"env": "X-v0", "name": "pole"})),)))


JOB = """
name = "mon"
agent = "tool"
samples = 3
agent_kwargs = {turns = 5}

[models]
policy = "small"
grader = "big"

[limits]
start_to_close = 600

[[datasets]]
path = "tasks"
env_kwargs = {max_steps = 7}

[[tasks]]
env = "CartPole-v1"
name = "pole"
agent = "random"
[tasks.limits]
start_to_close = 60
"""
YAML = """
name: mon
agent: tool
tasks:
  - env: CartPole-v1
    name: pole
  - env: CartPole-v1
    nmae: pole
"""


def test_a_job_file(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks" / "a")
    file = tmp_path / "job.toml"
    file.write_text(JOB)
    plan = plan_of(Options((str(file),), models={"grader": "other"}, seed=5))
    assert (plan.name, plan.samples, plan.seed) == ("mon", 3, 5)
    (name, _, first), (_, _, second) = plan.tasks
    assert (name, first.agent, second.agent) == ("a", "tool", "random")
    assert first.env_kwargs == {"max_steps": 7, "task": str(tmp_path / "tasks" / "a")}
    assert first.agent_kwargs == {"turns": 5}
    assert first.models == {"policy": "small", "grader": "other"}
    assert (first.limits.start_to_close, second.limits.start_to_close) == (600, 60)
    assert plan_of(Options((str(file),), agent="nop", samples=1)).tasks[1][2].agent == "nop"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("samples = 3", "sample = 3", ":4: unknown key sample; did you mean 'samples'?"),
        ("start_to_close = 60\n", "start_to_clos = 60\n", ":23: unknown key tasks[0].limits.start_to_clos; "),
        ("samples = 3", "samples = 0", ":4: samples = 0: give more than 0"),
        ('name = "pole"\n', 'name = "pole"\nfoo = 1\n', ":21: unknown key tasks[0].foo; known are agent, "),
        ("samples = 3", "samples = ", "at line 4"),
        ('env = "CartPole-v1"\n', "", ":18: tasks[0].env is missing"),
        ('env = "CartPole-v1"\n', 'evn = "x"\n', ":19: unknown key tasks[0].evn; did you mean 'env'?"),
        ("{turns = 5}", "{since = 2026-01-01}", ":5: agent_kwargs.since = 2026-01-01: a date; put it in quotes"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_job_file_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    file = tmp_path / "job.toml"
    file.write_text(JOB.replace(old, new, 1) if "60\n" not in old else new.join(JOB.rsplit(old, 1)))
    with pytest.raises(InvalidArgument) as error:
        plan_of(Options((str(file),)))
    assert said in error.value.message, error.value.message
    assert str(file) in error.value.message


def test_what_is_wrong_in_an_inline_table_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    first = '  { env = "X-v0", env_kwargs = { a = [1, "]},"] } },  # },'
    file.write_text(f'agent = "nop"\ntasks = [\n{first}\n\n  {{ env = "Y-v0", nmae = "y" }},\n]\n')
    with pytest.raises(InvalidArgument) as error:
        plan_of(Options((str(file),)))
    assert error.value.message == f"{file}:5: unknown key tasks[1].nmae; did you mean 'name'?"


def test_a_job_file_in_yaml(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(YAML)
    with pytest.raises(InvalidArgument) as error:
        plan_of(Options((str(file),)))
    assert error.value.message == f"{file}:8: unknown key tasks[1].nmae; did you mean 'name'?"
    file.write_text(YAML.replace("nmae", "name"))
    assert [name for name, _, _ in plan_of(Options((str(file),))).tasks] == ["pole", "pole #2"]
    file.write_text("a: [")
    with pytest.raises(InvalidArgument, match=r"job.yaml:1: no YAML"):
        plan_of(Options((str(file),)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agent: tool\nname: a\nagent: nop\n", "3: agent is given twice, first in line 1"),
        ("tasks:\n- env: a\n  env: b\n", "3: env is given twice, first in line 2"),
        ("agent_kwargs:\n  1: a\n", "2: the key 1 is no text: put it in quotes"),
        ("on: a\n", "1: the key on is no text: put it in quotes"),
        ("? [a]\n: b\n", "1: the key a table or a list is no text: put it in quotes"),
        ("agent_kwargs:\n  a: [2026-01-01]\n", "2: agent_kwargs.a.0 = 2026-01-01: a date; put it in quotes"),
        ("tasks: &a\n- *a\n", "1: tasks[0] = [[...]]: give a table"),
    ],
)  # fmt: skip
def test_what_yaml_takes_and_job_files_do_not_is_named_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(InvalidArgument) as error:
        plan_of(Options((str(file),)))
    assert error.value.message.startswith(f"{file}:{said}")


def test_what_yaml_says_once_for_several_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "agent: random\ntasks:\n- &a {env: CartPole-v1, name: a}\n- {<<: *a, name: b}\n"
    )
    assert [name for name, _, _ in plan_of(Options((str(file),))).tasks] == ["a", "b"]


def test_models_by_role() -> None:
    assert models_of(["http://h:1/v1#a=b", "grader=big"]) == {
        "policy": "http://h:1/v1#a=b",
        "grader": "big",
    }
    with pytest.raises(InvalidArgument, match=r"a model for 'policy' already, 'a'"):
        models_of(["a", "policy=b"])
