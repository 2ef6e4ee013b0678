from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from megaflow.errors import InvalidArgument
from megaflow_server.jobs.manifest import Manifest, difference
from megaflow_server.jobs.plan import Options, Plan, plan_of

A = {
    "env": "CartPole-v1",
    "name": "a",
    "limits": {"start_to_close": 5},
    "resources": {"requests": {"memory": "1Gi"}},
}
LINES = f"""{json.dumps(A)}
{{"env": "CartPole-v1", "name": "b", "seed": 7}}
{{
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    file = tmp_path / "tasks.jsonl"
    file.write_text(LINES)
    return plan_of(Options((str(file),), agent="random", samples=2, seed=1))


def test_a_manifest_comes_back_as_it_was_kept(plan: Plan) -> None:
    manifest = plan.manifest("j1")
    assert Manifest.of("j1", manifest.content()) == manifest
    assert [one.task for one in manifest.tasks] == [task for _, _, task in plan.tasks]
    assert manifest.names() == {0: "a", 1: "b"}
    assert [one.name for one in manifest.broken] == ["line 3"]
    assert {"python", "megaflow", "gymnasium"} <= manifest.versions.keys()


def test_what_is_none(plan: Plan) -> None:
    content = plan.manifest("j2").content()
    newer = zlib.compress(b'{"manifest": 99}')
    with pytest.raises(InvalidArgument, match=r"job='j2': .* another version"):
        Manifest.of("j2", newer)
    for broken in (b"", b"{", content[:-1], zlib.compress(b"{"), zlib.compress(b"[]")):
        with pytest.raises(InvalidArgument, match=r"job='j2': what it keeps is no manifest"):
            Manifest.of("j2", broken)


def test_jobs_of_the_same_tasks_may_differ_in_who_acts(plan: Plan) -> None:
    one = plan.manifest("j1")
    other = replace(
        plan, tasks=tuple((name, d, replace(t, agent="tool")) for name, d, t in plan.tasks)
    )
    assert difference(one, other.manifest("j2")) == []
    fewer = replace(plan, tasks=plan.tasks[:1], seed=2).manifest("j3")
    assert difference(one, fewer) == ["1 tasks are in one of them only, such as b", "seed: 1 and 2"]
    changed = replace(one, tasks=(replace(one.tasks[0], digest="x"), one.tasks[1]), versions={})
    said = difference(one, changed)
    assert said[0] == "1 tasks have changed, such as a"
    assert any(each.startswith("gymnasium: ") for each in said)
