"""`megaflow serve` with `[models.NAME]` and `--http`: the models' API on the same port as health and metrics."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from commands import Command, Refused, Serve
from leftovers import Place
from megaflow import Client, FailedPrecondition, Task
from megaflow.trajectory import ModelCall, TrajectoryReader
from megaflow.transport.credentials import resolve

HERE = ("--listen", "127.0.0.1:0", "--workers", "1", "--backend", "fake")
ECHO = '[models.echo]\nkind = "echo"\ndelay = {}\n'
BODY = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}


def written(folder: Path, text: str) -> str:
    path = folder / "megaflow.toml"
    path.write_text(text)
    return str(path)


async def ask(url: str, token: str, body: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        ClientSession() as client,
        client.post(url, json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


@pytest.mark.long
def test_models_are_called_and_recorded_and_end_with_the_server(
    serve: Serve, place: Place, tmp_path: Path
) -> None:
    config = written(tmp_path, ECHO.format(0) + ECHO.format(3600).replace("echo]", "slow]", 1))
    runs = tmp_path / "runs"
    options = ("--http", "127.0.0.1:0", "--trajectories", str(runs), "--config", config)
    served = serve(*HERE, *options)
    (address,) = served.addresses
    assert served.process.stdout is not None
    lines = [served.process.stdout.readline() for _ in range(2)]
    match = re.match(r"Health and metrics at (\S+)\.", lines[0])
    assert match is not None, lines
    assert lines[1] == f"Models: echo (echo), slow (echo); their calls are recorded in {runs}.\n"
    token = dict(resolve(address, None, None).metadata)["authorization"].removeprefix("Bearer ")

    async def calls() -> str:
        models = {"policy": "echo", "slow": "slow"}
        request = {"rollout_id": "r", "models": models}
        status, opened = await ask(f"{match[1]}/sessions", token, request)
        assert status == 201
        url = f"{opened['base_urls']['openai']}/chat/completions"
        status, answer = await ask(url, "anything", BODY)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "hi")
        slow = asyncio.create_task(ask(url, "anything", {**BODY, "model": "slow"}))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        assert await asyncio.to_thread(served.end) == 0
        assert time.monotonic() - began < 15
        await asyncio.gather(slow, return_exceptions=True)
        return str(opened["trajectory"])

    trajectory = TrajectoryReader(asyncio.run(calls()))
    called = [each.call for each in trajectory if isinstance(each, ModelCall)]
    assert [each["status"] for each in called] == [200, 499]
    assert trajectory.ended
    assert not trajectory.dropped


def test_a_providers_key_is_in_no_worker(
    serve: Serve, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-of-the-provider")
    monkeypatch.setenv("ANOTHER_VARIABLE", "of-the-user")
    text = '[models.m]\nkind = "openai"\nbase_urls = ["http://127.0.0.1:1/v1"]\nmodel = "m"\n'
    config = written(tmp_path, text + 'api_key_env = "PROVIDER_KEY"\n')
    serve("--listen", "127.0.0.1:0", "--workers", "1", "--http", "127.0.0.1:0", "--config", config)
    (worker,) = place.workers()
    environ = Path(f"/proc/{worker}/environ").read_text()
    assert "of-the-user" in environ
    assert "PROVIDER_KEY" not in environ
    assert "sk-of-the-provider" not in environ


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (
            ECHO.format(0),
            ("--trajectories", "runs"),
            "sessions of models are recorded there, which are opened over HTTP",
        ),
        (
            "",
            ("--serve", "environments,models"),
            "the configuration names none: add a table [models.NAME]",
        ),
        (ECHO.format(0), ("--serve", "agents"), "--serve 'agents': there is no service of agents"),
        (ECHO.format(0), ("--serve", "model"), "--serve 'model': give environments or models"),
        (
            "",
            ("--trajectories", "runs"),
            "the configuration has neither: give store, or add a table [models.NAME]",
        ),
        (
            ECHO.format(0),
            ("--http", "127.0.0.1:0", "--trajectories", "s3://bucket"),
            "trajectories='s3://bucket': give a folder of this machine",
        ),
        ('[models.m]\nkind = "vlm"', ("--http", "127.0.0.1:0"), "did you mean 'vllm'?"),
    ],
)
def test_what_cannot_be_served_is_told(
    refused: Refused, tmp_path: Path, text: str, options: tuple[str, ...], says: str
) -> None:
    assert says in refused(*HERE, *options, "--config", written(tmp_path, text))


def test_models_alone_are_served_without_workers(
    serve: Serve, place: Place, tmp_path: Path, command: Command
) -> None:
    # A file may be that of a server with environments, too.
    others = '[server]\nstore = "sqlite:///none.db"\ntrajectories = "runs"\nbackend = "fake"\n'
    config = written(tmp_path, others + ECHO.format(0))
    served = serve("--listen", "127.0.0.1:0", "--serve", "models", "--config", config)
    (address,) = served.addresses
    with Client(address) as client:
        assert client.model("echo").generate("hi").text == "hi"
        refused = "this server serves models alone, and no environments: .* --serve environments"
        for ask in (
            lambda: client.make("CartPole-v1"),
            client.envs,
            lambda: client.submit([Task("CartPole-v1", "random")]),
        ):
            with pytest.raises(FailedPrecondition, match=refused):
                ask()
    listed = command("models", "list", "--server", address)
    assert (listed.status, "serving" in listed.out) == (0, True)
    (row,) = json.loads(command("models", "list", "--server", address, "--json").out)
    assert (row["name"], row["kind"], row["state"]) == ("echo", "echo", "serving")
    tried = json.loads(command("models", "test", "echo", "--server", address, "--json").out)
    assert (tried["answer"], tried["logprobs"], tried["error"]) == ("Say OK.", True, None)
    unknown = command("models", "test", "ech", "--server", address)
    assert (unknown.status, "has no model 'ech'; known are echo" in unknown.err) == (2, True)
    both = command("models", "list", "--server", address, "--config", config)
    assert (both.status, "leave one out" in both.err) == (2, True)
    assert not place.workers()
    assert served.end() == 0


def test_models_are_called_beside_environments_and_say_what_fails(
    serve: Serve, place: Place, tmp_path: Path, command: Command
) -> None:
    broken = '[models.m]\nkind = "openai"\nbase_urls = ["http://127.0.0.1:1/v1"]\nmodel = "m"\n'
    config = written(tmp_path, ECHO.format(0) + broken + "attempts = 1\n")
    served = serve(*HERE, "--config", config)
    (address,) = served.addresses
    with Client(address) as client:
        assert client.model("echo").generate("hi").text == "hi"
        client.make("CartPole-v1").close()
    failed = command("models", "test", "m", "--server", address)
    assert (failed.status, "Unavailable: " in failed.out) == (1, True)


def test_what_is_about_environments_is_not_taken_by_models_alone(
    refused: Refused, tmp_path: Path
) -> None:
    config = written(tmp_path, ECHO.format(0))
    options = ("--listen", "127.0.0.1:0", "--serve", "models", "--config", config)
    for more in (("--store", "sqlite:///x"), ("--workers", "2"), ("--import", "m")):
        assert f"{more[0]} " in (told := refused(*options, *more))
        assert "leave it out, or give --serve environments,models" in told


def test_models_of_its_runners_are_made_before_it_serves(refused: Refused, tmp_path: Path) -> None:
    config = written(tmp_path, '[models.m]\nkind = "echo"\ndelai = 1\n')
    store = ("--store", f"sqlite:///{tmp_path / 'tasks.db'}")
    says = f"{config}: models.m.delai: unknown key; did you mean delay?"
    assert says in refused(*HERE, *store, "--config", config)
