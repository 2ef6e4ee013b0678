"""`megaflow serve --store URL --http ADDR`: tasks that outlive the server, and what operators see of it."""

from __future__ import annotations

import asyncio
import re
import signal
import urllib.error
import urllib.request

import pytest

import megaflow
from commands import Command, Refused, Serve, Served
from leftovers import Place
from megaflow.transport.credentials import resolve
from runner_rig import FakeRunner, solved

HERE = ("--listen", "127.0.0.1:0", "--workers", "1", "--backend", "fake")
TASK = megaflow.Task("CartPole-v1", "random")


def http_of(served: Served) -> str:
    assert served.process.stdout is not None
    for _ in range(2):
        line = served.process.stdout.readline()
        if match := re.match(r"Health and metrics at (\S+)\.", line):
            return match[1]
    raise AssertionError(line)


def get(url: str, token: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def token_of(address: str) -> str:
    metadata = dict(resolve(address, None, None).metadata)
    return metadata["authorization"].removeprefix("Bearer ")


def execute(address: str, slots: int) -> None:
    """Claims so many tasks once, and says that they were solved."""

    async def once() -> None:
        metadata = resolve(address, None, None).metadata
        async with FakeRunner(address, "r", slots, metadata) as runner:
            verdicts = await runner.finish(await runner.claim(slots), solved)
            assert [verdict.accepted for verdict in verdicts] == [True] * slots

    asyncio.run(once())


@pytest.mark.long
def test_what_was_submitted_survives_a_kill(serve: Serve, place: Place) -> None:
    store = f"sqlite:///{place.folder / 'tasks.db'}"
    served = serve(*HERE, "--store", store, "--runners", "0")
    (address,) = served.addresses
    with megaflow.Client(address) as client:
        job = client.submit([TASK] * 10, name="ten").id
    execute(address, 4)
    served.process.kill()
    served.process.wait()
    served = serve("--listen", address, *HERE[2:], "--store", store, "--runners", "0")
    with megaflow.Client(address) as client:
        status = client.job("ten").status()
        assert status.id == job
        assert status.states == {"succeeded": 4, "queued": 6}
        results = client.job(job).results(timeout=10)
        assert [next(results).done for _ in range(4)] == [1, 2, 3, 4]
    assert served.end() == 0


def test_metrics_equal_the_store_when_quiet(serve: Serve, place: Place) -> None:
    config = place.folder / "megaflow.toml"
    config.write_text("[tenants.local]\nweight = 2.0\nquota = { running = 7 }\n")
    served = serve(
        *HERE,
        *("--store", f"sqlite:///{place.folder / 'tasks.db'}", "--runners", "0"),
        *("--http", "127.0.0.1:0", "--config", str(config)),
    )
    (address,) = served.addresses
    http = http_of(served)
    with megaflow.Client(address) as client:
        job = client.submit([TASK] * 10)
        execute(address, 4)
        client.cancel_task(f"{job.id}/9")
    assert get(f"{http}/healthz") == (200, "ok\n")
    assert get(f"{http}/readyz") == (200, "ok\n")
    assert get(f"{http}/metrics")[0] == 401
    assert get(f"{http}/metrics", "mf_0")[0] == 401
    status, text = get(f"{http}/metrics", token_of(address))
    assert status == 200
    said = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    for state, count in {"succeeded": 4, "queued": 5, "cancelled": 1, "running": 0}.items():
        assert said[f'megaflow_tasks{{state="{state}",tenant="local"}}'] == f"{count}.0"
    assert said['megaflow_quota_running_used{tenant="local"}'] == "0.0"
    assert said['megaflow_quota_running_limit{tenant="local"}'] == "7.0"
    assert said["megaflow_claims_total"] == "4.0"
    assert said["megaflow_schedule_to_start_seconds_count"] == "4.0"
    assert float(said["megaflow_store_transaction_seconds_count"]) > 0
    assert job.id not in text
    assert served.end(signal.SIGINT) == 0


def test_metrics_are_for_operators(serve: Serve, place: Place, command: Command) -> None:
    tokens = place.folder / "tokens"
    made = {
        scope: command(
            "tokens", "create", "ann", "--scope", scope, "--token-file", str(tokens)
        ).out.strip()
        for scope in ("read", "admin")
    }
    served = serve(*HERE, "--http", "127.0.0.1:0", "--token-file", str(tokens))
    http = http_of(served)
    status, text = get(f"{http}/metrics", made["read"])
    assert (status, "the scope admin" in text) == (403, True)
    assert get(f"{http}/metrics", made["admin"])[0] == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--store", "mysql://x/y"), "store='mysql://x/y': give sqlite:///PATH or postgresql://"),
        (("--store", "sqlite:////no/such/folder/x.db"), "/no/such/folder"),
        (("--http", "0.0.0.0:0"), "--token-file"),
    ],
)
def test_what_cannot_be_served_is_refused(
    fails_to_start: Refused, arguments: tuple[str, ...], words: str
) -> None:
    assert words in fails_to_start(*HERE, *arguments)
