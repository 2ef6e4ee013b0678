"""`[models.NAME]` in megaflow.toml, and `megaflow models list|test`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from commands import Command
from megaflow import InvalidArgument
from megaflow.calls import Price
from megaflow.trajectory import ModelCall
from megaflow_adapters.models.vllm import VllmModel
from megaflow_server.config import load
from megaflow_server.models.catalogue import made
from trajectory_samples import conversation, write

TEXT = """
[models.policy]
kind = "vllm"
base_urls = ["http://10.0.0.5:8000/v1", "http://10.0.0.6:8000/v1"]
model = "org/name"
api_key_env = "POLICY_API_KEY"
weight_version = 3
price = { input_per_million = 0.15, output_per_million = 0.60 }

[models.grader]
kind = "scripted"
answers = ["yes", "no"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "megaflow.toml"
    path.write_text(text)
    return path


def test_a_configuration_names_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_API_KEY", "sk-1")
    tables = load(written(tmp_path, TEXT), {}).models
    assert "sk-1" not in repr(tables)
    served = made(tables)
    policy = served["policy"].model
    assert isinstance(policy, VllmModel)
    assert (policy.name, policy.weight_version, len(policy.loads)) == ("org/name", 3, 2)
    assert served["policy"].price == Price(0.15, 0.6)
    assert served["grader"].price is None


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('kind = "vlm"', "models.m.kind = 'vlm': is no kind of model; did you mean 'vllm'?"),
        ('kind = "?"', "known are echo, openai, replay, scripted, sglang"),
        ('kind = "echo"\ndelai = 1', "models.m.delai: unknown key; did you mean delay?"),
        ('kind = "echo"\ndelay = -1', "models.m.delay: "),
        ('kind = "scripted"', "models.m.answers: is missing"),
        ('kind = "vllm"\nbase_url = "x"', "models.m.base_url: unknown key; did you mean base_urls?"),
        ('kind = "replay"\ntrajectories = "nowhere"', "models.m.trajectories: nowhere: no trajectory"),
        (
            'kind = "openai"\nbase_urls = ["http://x/v1"]\nmodel = "m"\napi_key_env = "NOT_SET"',
            "models.m.api_key_env: $NOT_SET is not set",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_key(tmp_path: Path, table: str, says: str) -> None:
    tables = load(written(tmp_path, f"[models.m]\n{table}"), {}).models
    with pytest.raises(InvalidArgument) as refused:
        made(tables)
    assert says in refused.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[models.m]", "models.m.kind: is missing"),
        ("[models.m]\nkind = 1", "models.m.kind = 1: give text"),
        (
            '[models.m]\nkind = "echo"\nprice = { input_per_milion = 1.0, output_per_million = 1.0 }',
            "did you mean models.m.price.input_per_million?",
        ),
        (
            '[models.m]\nkind = "echo"\nprice = { input_per_million = 1.0, output_per_million = -1.0 }',
            "models.m.price.output_per_million = -1.0: give 0 or more",
        ),
    ],
)
def test_what_every_kind_has_is_checked_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load(written(tmp_path, text), {})
    assert says in refused.value.message


def test_recorded_calls_are_a_model(tmp_path: Path, command: Command) -> None:
    call = {**conversation()[0], "schema_version": 1}
    write(tmp_path / "runs" / "a.mft", [ModelCall(call=call)])
    table = '[models.m]\nkind = "replay"\ntrajectories = "{}"{}'
    path = written(tmp_path, table.format(tmp_path / "runs", ""))
    tried = command("models", "test", "m", "--config", str(path), "--json")
    assert tried.status == 1
    assert "no recorded answer left for this request" in json.loads(tried.out)["error"]
    path = written(tmp_path, table.format(tmp_path / "runs", '\nrole = "grader"'))
    listed = command("models", "list", "--config", str(path))
    assert listed.status == 1
    assert "no call of 'grader' stands in" in listed.out
    assert "roles there: policy" in listed.out


def test_list_says_what_each_is_and_what_is_wrong(tmp_path: Path, command: Command) -> None:
    assert "POLICY_API_KEY" not in os.environ
    path = written(tmp_path, TEXT)
    listed = command("models", "list", "--config", str(path))
    assert listed.status == 1
    assert "models.policy.api_key_env: $POLICY_API_KEY is not set" in listed.out
    rows = {
        row["name"]: row
        for row in json.loads(command("models", "list", "--config", str(path), "--json").out)
    }
    assert rows["policy"]["replicas"] == ["http://10.0.0.5:8000/v1", "http://10.0.0.6:8000/v1"]
    assert rows["policy"]["price"]["output_per_million"] == 0.6
    assert (rows["grader"]["model"], rows["grader"]["fault"]) == ("scripted", None)


def test_test_asks_and_says_what_came(tmp_path: Path, command: Command) -> None:
    price = "price = { input_per_million = 1.0, output_per_million = 1.0 }"
    path = written(tmp_path, f'[models.m]\nkind = "echo"\n{price}')
    tried = command("models", "test", "m", "--config", str(path), "--prompt", "hello", "--json")
    result = json.loads(tried.out)
    assert (tried.status, result["answer"], result["error"]) == (0, "hello", None)
    assert (result["token_ids"], result["logprobs"], result["weight_version"]) == (True, True, 0)
    tokens = result["prompt_tokens"] + result["completion_tokens"]
    assert result["cost"] == pytest.approx(tokens / 1e6)
    table = command("models", "test", "m", "--config", str(path)).out
    assert "Say OK." in table
    assert "token ids" in table


def test_test_says_why_there_is_no_answer(tmp_path: Path, command: Command) -> None:
    upstream = 'base_urls = ["http://127.0.0.1:1/v1"]\nmodel = "m"\nattempts = 1'
    path = written(tmp_path, f'[models.m]\nkind = "openai"\n{upstream}')
    tried = command("models", "test", "m", "--config", str(path))
    assert tried.status == 1
    assert "the connection failed" in tried.out


def test_misuse_is_told(tmp_path: Path, command: Command) -> None:
    path = written(tmp_path, TEXT)
    unknown = command("models", "test", "polcy", "--config", str(path))
    assert (unknown.status, unknown.out) == (2, "")
    assert "has no model 'polcy'; known are policy, grader" in unknown.err
    missing = command("models", "list", "--config", str(tmp_path / "none.toml"))
    assert missing.status == 2
    assert "cannot be read" in missing.err
    none = command("models", "list", "--config", str(written(tmp_path, "")))
    assert (none.status, "names no models" in none.out) == (0, True)


def test_the_configuration_is_found_as_by_other_commands(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEGAFLOW_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    missing = command("models", "list")
    assert missing.status == 2
    assert "no megaflow.toml is here, and $MEGAFLOW_CONFIG names none" in missing.err
    path = written(tmp_path, '[models.m]\nkind = "echo"\n')
    assert [row["name"] for row in json.loads(command("models", "list", "--json").out)] == ["m"]
    path.rename(tmp_path / "other.toml")
    monkeypatch.setenv("MEGAFLOW_CONFIG", "other.toml")
    assert command("models", "test", "m").status == 0
