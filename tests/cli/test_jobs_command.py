from __future__ import annotations

import json

import pytest

import megaflow
from commands import Command, Serve
from leftovers import Place

TASK = megaflow.Task("CartPole-v1", "random")


@pytest.fixture
def address(serve: Serve, place: Place) -> str:
    store = f"sqlite:///{place.folder / 'tasks.db'}"
    arguments = ("--listen", "127.0.0.1:0", "--workers", "1", "--backend", "fake")
    return serve(*arguments, "--store", store, "--runners", "0").addresses[0]


def test_ps_why_and_cancel(address: str, command: Command) -> None:
    with megaflow.Client(address) as client:
        job = client.submit([TASK] * 3, name="mon").id
    (listed,) = json.loads(command("ps", "--server", address, "--json").out)
    assert (listed["id"], listed["name"], listed["total"]) == (job, "mon", 3)
    assert listed["states"]["queued"] == 3
    assert "3 queued" in command("ps", "--server", address).out

    said = command("why", f"{job}/1", "--server", address).out
    assert f"{job}/1 is queued: submitted" in said
    assert "It waits for a runner: none is registered" in said
    assert "and for a task of local" in said
    explained = json.loads(command("why", f"{job}/1", "--server", address, "--json").out)
    assert [event["after"] for event in explained["events"]] == ["queued"]

    said = command("cancel", f"{job}/1", "--reason", "enough", "--server", address).out
    assert said == f"{job}/1 is cancelled: enough\n"
    said = command("cancel", "mon", "--server", address).out
    assert said == f"{job} is cancelled: 3 cancelled\n"
    cancelled = json.loads(command("cancel", "mon", "--server", address, "--json").out)
    assert cancelled["states"]["cancelled"] == 3


@pytest.mark.parametrize("arguments", [("why", "j/0"), ("cancel", "j/0"), ("cancel", "j")])
def test_what_is_not_there_is_bad_input(
    address: str, command: Command, arguments: tuple[str, ...]
) -> None:
    outcome = command(*arguments, "--server", address)
    assert outcome.status == 2
    assert "job='j': there is no such job" in outcome.err


def test_a_server_that_keeps_no_tasks_says_so(serve: Serve, command: Command) -> None:
    served = serve("--listen", "127.0.0.1:0", "--workers", "1", "--backend", "fake")
    outcome = command("ps", "--server", served.addresses[0])
    assert outcome.status == 3
    assert "--store" in outcome.err
