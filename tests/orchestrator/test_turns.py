"""What a task waits for beside runners and its own tenant's tasks: another tenant's turn, and its sandbox."""

from __future__ import annotations

import pytest

from megaflow_server.orchestrator.batch import carry_out
from megaflow_server.orchestrator.commands import (
    AddTasks,
    Claim,
    Command,
    CreateJob,
    NewTask,
    RegisterRunner,
    SetTenant,
)
from megaflow_server.orchestrator.explaining import waits_for
from megaflow_server.orchestrator.records import Resources, Task
from megaflow_server.orchestrator.retries import RetryPolicy
from megaflow_server.orchestrator.store.memory import MemoryStore


class Scene:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 100.0

    def carry_out(self, *commands: Command) -> None:
        for answer in carry_out(self.store, commands, lambda: self.now, RetryPolicy()):
            if isinstance(answer, Exception):
                raise answer

    def submit(self, tenant: str, tasks: int) -> None:
        self.carry_out(
            CreateJob(tenant, tenant, 1),
            AddTasks(tenant, tenant, tuple(NewTask(index, "{}") for index in range(tasks))),
        )

    def why(self, task: str, **breakers: str) -> list[str]:
        found = self.store.find_task(task)
        assert isinstance(found, Task)
        return waits_for(self.store, found, self.now, breakers)


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.carry_out(RegisterRunner("r", Resources(2)))
    scene.submit("ann", 5)
    scene.carry_out(Claim("r", 2, 1))
    return scene


def turns(reasons: list[str]) -> list[str]:
    return [reason for reason in reasons if "turn" in reason]


def test_whoever_has_less_for_its_weight_goes_first_and_is_not_named(scene: Scene) -> None:
    assert turns(scene.why("ann/2")) == []
    scene.submit("bob", 3)
    (reason,) = turns(scene.why("ann/2"))
    assert reason == (
        "another tenant's turn, which has less for the weight than ann (2 open at weight 1), or waited longer"
    )
    scene.submit("eve", 1)
    (reason,) = turns(scene.why("ann/2"))
    assert reason.startswith("the turns of 2 others, which have less")
    assert not any(name in reason for name in ("bob", "eve"))
    assert turns(scene.why("bob/0")) == []  # the first by name, where all else is equal


def test_a_weight_makes_it_ones_own_turn(scene: Scene) -> None:
    scene.submit("bob", 3)
    scene.carry_out(SetTenant("ann", weight=4.0))
    assert turns(scene.why("ann/2")) == []
    assert len(turns(scene.why("bob/0"))) == 1


def test_who_may_start_nothing_goes_before_nobody(scene: Scene) -> None:
    scene.submit("bob", 3)
    scene.carry_out(SetTenant("bob", most=0))
    assert turns(scene.why("ann/2")) == []


def test_an_environment_that_is_being_made_may_wait_for_a_sandbox(scene: Scene) -> None:
    scene.now += 42.0
    assert scene.why("ann/0") == ["its environment, which is being made for 42 s"]
    assert scene.why("ann/0", python="3 of the last 5 creations failed") == [
        "its environment, which is being made for 42 s",
        "perhaps a sandbox of 'python': none is created now, 3 of the last 5 creations failed",
    ]
