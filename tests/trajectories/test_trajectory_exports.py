from __future__ import annotations

import base64
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaflow.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from megaflow.trajectory import (
    End,
    Event,
    ModelCall,
    Record,
    Reset,
    Start,
    Step,
    TrajectoryReader,
    Verdict,
    find,
)
from megaflow.trajectory.export import FORMATS, export
from megaflow.trajectory.export.plain import plain
from megaflow.trajectory.places import LocalFiles
from megaflow_server.trajectories import TrajectoryStore
from trajectory_samples import agentic, call, classic, conversation, ends, message, write


def exported(tmp_path: Path, format: str, **trajectories: list[Record]) -> Path:
    for name, records in trajectories.items():
        write(tmp_path / "in" / f"{name}.mft", records)
    out = tmp_path / "out"
    export(find(tmp_path / "in"), format, out)
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def atif(tmp_path: Path, records: list[Record]) -> dict[str, Any]:
    out = exported(tmp_path, "atif", a=records)
    document: dict[str, Any] = json.loads((out / "a.atif.json").read_text())
    return document


def test_json_lines_hold_every_record_and_every_gap(tmp_path: Path) -> None:
    data, places = ends(classic())
    (tmp_path / "in").mkdir()
    damaged = bytearray(data)
    damaged[places[2] - 1] ^= 1
    (tmp_path / "in" / "g.mft").write_bytes(damaged[:-1])
    seen: list[TrajectoryReader] = []
    export(find(tmp_path / "in"), "jsonl", tmp_path / "out.jsonl", report=seen.append)
    rows = lines(tmp_path / "out.jsonl")
    kinds = [record.kind for record in classic()]
    assert [row["kind"] for row in rows] == [kinds[0], *kinds[2:-1], "dropped", "dropped"]
    assert rows[1]["observation"] == [0.0, 1.0, 2.0, 3.0]
    assert [row["torn"] for row in rows[-2:]] == [False, True]
    assert [len(each.dropped) for each in seen] == [2]


def test_values_that_json_lacks_are_spelled_out() -> None:
    assert plain(float("nan")) == "NaN"
    assert plain(np.array([1.0, np.inf, -np.inf])) == [1.0, "Infinity", "-Infinity"]
    assert plain((np.int8(1), b"\0", {1: True})) == [1, {"base64": "AA=="}, {"items": [[1, True]]}]
    assert plain(np.str_("x")) == "x"
    assert plain(1 + 2j) == {"real": 1.0, "imag": 2.0}
    assert plain(np.random.default_rng(0))["generator"]["bit_generator"] == "PCG64"
    for value in (np.zeros((2, 0)), np.array(["a"]), np.array([1j]), np.array([None], object)):
        json.dumps(plain(value), allow_nan=False)


@pytest.mark.parametrize("format", FORMATS)
def test_any_trajectory_can_be_exported(tmp_path: Path, format: str) -> None:
    odd: list[Record] = [
        Step(
            action=b"\xff",
            observation={"a": np.nan, 3: np.zeros((2, 2), "c8")},
            reward={"x": np.float32("inf"), "y": None},
            terminated={"x": True},
            truncated=np.bool_(True),
        ),
        ModelCall(call={}),
        ModelCall(call={"messages": [{}], "response": {"tool_calls": [{}]}, "usage": None}),
        Event(name="x", data=(1,)),
    ]
    out = exported(tmp_path, format, a=agentic(), b=classic(), c=odd, d=[], e=[End(status="x")])
    assert out.exists()
    assert not list(tmp_path.glob("**/.*"))


@pytest.mark.requires("pandas")
def test_parquet_loads_in_pandas(tmp_path: Path) -> None:
    import pandas as pd

    unpriced = agentic("u", reward=None)
    unpriced[1] = ModelCall(call={**conversation()[0], "cost": None})
    out = exported(tmp_path, "parquet", a=agentic(), g=classic(), u=unpriced)
    table = pd.read_parquet(out / "trajectories.parquet").set_index("trajectory")
    assert list(table["reward"])[:2] == [1.0, 3.0]
    assert pd.isna(table["reward"]["u"])  # unscored is not 0
    assert list(table["valid"]) == [True, True, False]
    assert list(table["steps"]) == [0, 3, 0]
    assert list(table["prompt_tokens"]) == [6, 0, 6]
    assert list(table["cost"][:2]) == [0.5, 0.0]
    assert pd.isna(table["cost"]["u"])  # what one call cost is not known
    assert table["return"]["g"] == 3.0
    assert table["failure_reason"]["g"] == "it hung"
    steps = pd.read_parquet(out / "steps.parquet")
    assert list(steps["step"]) == [0, 1, 2, 3]
    assert json.loads(steps["observation"][1]) == [0.0, 1.0, 2.0, 3.0]
    assert list(steps["terminated"][1:]) == [False, False, True]
    calls = pd.read_parquet(out / "calls.parquet")
    assert len(calls) == 4
    assert list(calls["completion_token_ids"][0]) == [4, 5]
    assert list(calls["logprobs"][0]) == [-0.5, -0.25]
    assert json.loads(calls["messages"][0]) == conversation()[0]["messages"]


@pytest.mark.requires("pandas")
def test_ten_thousand_trajectories_are_three_tables(tmp_path: Path) -> None:
    import pandas as pd

    # Five hundred files, twenty times over: what makes ten thousand of them slow here is the disk.
    for number in range(500):
        records: list[Record] = [Start(attempt_id=f"a{number}"), Verdict(reward=number % 2)]
        if number % 10 == 0:
            records.insert(1, ModelCall(call=conversation()[0]))
        write(tmp_path / "in" / f"a{number:03}.mft", records)
    export(find(tmp_path / "in") * 20, "parquet", tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "trajectories.parquet")
    assert len(table) == 10_000
    assert list(table["attempt_id"]) == [f"a{number}" for number in range(500)] * 20
    assert table["reward"].sum() == 5000
    assert len(pd.read_parquet(tmp_path / "out" / "calls.parquet")) == 1000


@pytest.mark.requires("datasets")
def test_parquet_loads_in_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = exported(tmp_path, "parquet", a=agentic(), g=classic())
    # In a process of its own: it warns, and sets the process up for itself.
    code = (
        "import sys, datasets\n"
        "for name in ('trajectories', 'steps', 'calls'):\n"
        "    table = datasets.load_dataset('parquet', data_files=f'{sys.argv[1]}/{name}.parquet',"
        " split='train', cache_dir=sys.argv[2])\n"
        "    print(name, len(table), table[0]['trajectory'])\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(out), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=110,
        env=environment,
    )
    assert done.stdout.splitlines() == ["trajectories 2 a", "steps 4 g", "calls 2 a"], done.stderr


def test_atif_has_each_message_once_and_results_with_their_calls(tmp_path: Path) -> None:
    document = atif(tmp_path, agentic())
    assert document["schema_version"] == "ATIF-v1.7"
    assert document["agent"]["name"] == "tool"
    assert document["agent"]["version"] == "1.2"
    assert document["agent"]["tool_definitions"][0]["function"]["name"] == "ls"
    system, user, asks, says = document["steps"]
    assert [each["step_id"] for each in document["steps"]] == [1, 2, 3, 4]
    assert (system["source"], user["source"]) == ("system", "user")
    assert asks["reasoning_content"] == "Look."
    assert [each["arguments"] for each in asks["tool_calls"]] == [
        {"path": "."},
        {"raw": "not json"},
    ]
    assert [each["content"] for each in asks["observation"]["results"]] == [
        "a.txt",
        "no such path",
    ]
    assert asks["metrics"]["completion_token_ids"] == [4, 5]
    assert asks["metrics"]["logprobs"] == [-0.5, -0.25]
    assert asks["metrics"]["cost_usd"] == 0.25
    assert says["message"] == "One file: a.txt."
    assert document["final_metrics"] == {
        "total_prompt_tokens": 6,
        "total_completion_tokens": 4,
        "total_cost_usd": 0.5,
        "total_steps": 4,
    }
    assert document["extra"]["reward"] == 1.0


def test_atif_of_an_environment_of_numbers(tmp_path: Path) -> None:
    steps = atif(tmp_path, classic())["steps"]
    assert [each["source"] for each in steps] == ["system", "agent", "agent", "agent"]
    assert all(each["llm_call_count"] == 0 for each in steps[1:])
    assert steps[2]["tool_calls"][0]["arguments"] == {"action": 1}
    assert steps[3]["extra"]["terminated"] is True


def test_atif_of_a_context_that_was_rewritten(tmp_path: Path) -> None:
    first, second = conversation()
    asks = first["response"]
    shorter = [first["messages"][0], message("user", "So far: one file."), {**asks}]
    calls = [first, second, call(shorter, message("assistant", "Done."))]
    steps = atif(tmp_path, [ModelCall(call=each) for each in calls])["steps"]
    copied = [each.get("is_copied_context", False) for each in steps]
    assert [each["message"] for each in steps][4:] == ["So far: one file.", "", "Done."]
    assert copied == [False, False, False, False, False, True, False]


def test_atif_of_conversations_among_each_other(tmp_path: Path) -> None:
    first, second = conversation()
    other = call([message("user", "Sub-task.")], message("assistant", "Sub-answer."))
    grader = call([message("user", "Grade it.")], message("assistant", "5"), role="grader")
    document = atif(tmp_path, [ModelCall(call=each) for each in (first, other, grader, second)])
    texts = [each["message"] for each in document["steps"]]
    assert texts == [
        "Be brief.",
        "What is here?",
        "",
        "Sub-task.",
        "Sub-answer.",
        "",
        "",
        "One file: a.txt.",
    ]
    assert document["extra"]["other_calls"] == 1


@pytest.mark.requires("atif")
def test_what_atif_says_is_valid(tmp_path: Path) -> None:
    from atif import Trajectory

    picture = [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    lost = call([message("user", "Hello")], None, error="upstream", usage=None)
    seen = call([message("user", picture)], message("assistant", "A cat."))
    step = Step(action="x", observation="y", reward=1.0, terminated=True, truncated=False)
    samples: list[list[Record]] = [
        agentic(),
        classic(),
        [ModelCall(call=lost), ModelCall(call=seen), step],
        [Reset(observation="Do it.", info={}), step],
        [],
    ]
    for number, records in enumerate(samples):
        document = atif(tmp_path / str(number), records)
        Trajectory.model_validate(document)
        assert document["schema_version"] == "ATIF-v1.7"


async def test_atif_names_the_images_that_lie_beside(tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(20_000)).decode()
    picture = [{"type": "image_url", "image_url": {"url": url}}]
    store = TrajectoryStore(str(tmp_path / "in"))
    writer = store.writer("a")
    seen = call([message("user", picture)], message("assistant", "A cat."))
    await writer.append(ModelCall(call=seen))
    await writer.close()
    await store.close()
    assert (tmp_path / "in" / "a.mft").stat().st_size < 2000
    export(find(tmp_path / "in"), "atif", tmp_path / "out")
    document = json.loads((tmp_path / "out" / "a.atif.json").read_text())
    (part,) = document["steps"][0]["message"]
    assert LocalFiles().read(part["source"]["path"], 0, 30_000) == bytes(20_000)


def test_atif_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write(tmp_path / "in" / folder / "a.mft", agentic())
    export(find(tmp_path / "in"), "atif", tmp_path / "out")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "a-2.atif.json",
        "a.atif.json",
    ]


def test_sharegpt_is_a_conversation_that_alternates(tmp_path: Path) -> None:
    (line,) = lines(exported(tmp_path, "sharegpt", a=agentic(), g=classic()))
    assert [turn["from"] for turn in line["conversations"]] == [
        "human",
        "function_call",
        "observation",
        "gpt",
    ]
    asks, results = line["conversations"][1:3]
    assert [each["name"] for each in json.loads(asks["value"])] == ["ls", "ls"]
    assert json.loads(results["value"]) == ["a.txt", "no such path"]
    assert all(turn.keys() <= {"from", "value", "text"} for turn in line["conversations"])
    assert line["system"] == "Be brief."
    assert json.loads(line["tools"])[0]["name"] == "ls"
    assert (line["reward"], line["valid"], line["task_id"]) == (1.0, True, "t")


def test_sharegpt_has_one_line_for_each_conversation(tmp_path: Path) -> None:
    first, second = conversation()
    again = {**first, "response": message("assistant", "Nothing.")}
    records: list[Record] = [ModelCall(call=each) for each in (first, again, second)]
    found = lines(exported(tmp_path, "sharegpt", a=records))
    assert [each["conversations"][-1]["value"] for each in found] == [
        "One file: a.txt.",
        "Nothing.",
    ]
    assert [each["id"] for each in found] == ["a/0", "a/1"]


def test_a_disk_that_is_full_leaves_nothing_unfinished(tmp_path: Path) -> None:
    import resource

    write(tmp_path / "in" / "a.mft", [Event(name="x", data="y" * 200_000)] * 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ResourceExhausted, match="no room"):
            export(find(tmp_path / "in"), "jsonl", tmp_path / "out.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_misuse_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write(tmp_path / "a.mft", agentic()))
    with pytest.raises(InvalidArgument, match="jsonl, parquet, atif, sharegpt"):
        export([path], "csv", tmp_path / "out")
    with pytest.raises(InvalidArgument, match="give out"):
        export([path], "atif")
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="cannot be written"):
        export([path], "atif", tmp_path / "file" / "out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FailedPrecondition, match=r"megaflow\[report\]"):
        export([path], "parquet", tmp_path / "out")


def test_a_hundred_megabytes_are_read_and_exported_in_bounded_memory(tmp_path: Path) -> None:
    from megaflow.trajectory import records
    from megaflow.trajectory.frames import frame, preamble

    path = tmp_path / "a.mft"
    payload = records.encode(Event(name="x", data="y" * 250_000))
    with path.open("wb") as file:
        file.write(preamble(1))
        for number in range(400):
            file.write(frame(Event.code, number, payload, 1))
    assert path.stat().st_size > 100_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in TrajectoryReader(path)) == 400
        export([str(path)], "jsonl", tmp_path / "out.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
