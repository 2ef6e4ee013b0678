"""Keeping the lease in a thread: what happens where nobody answers, and where nothing stops."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import megaflow_server.runner.keeping as module
from megaflow.transport.credentials import Target
from megaflow_server.runner.keeping import Keeper
from megaflow_server.runner.lease import Lease

PATIENCE = 30.0


class Scene:
    """A keeper of a short lease, with nobody to renew it."""

    def __init__(self, folder: Path) -> None:
        self.lost, self.ended = threading.Event(), threading.Event()
        self.began = time.monotonic()
        self.lease = Lease(self.began, renew=0.1, stop=0.5, clock=time.monotonic)
        self.keeper = Keeper(
            Target(f"unix:{folder}/nobody"),
            "runner",
            self.lease,
            revoked=lambda names: None,
            lost=lambda why: self.lost.set(),
            end=self.ended.set,
        )


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(module, "_GRACE", 0.3)
    return Scene(tmp_path)


def test_a_lease_that_cannot_be_renewed_is_lost_and_what_stops_goes_on(scene: Scene) -> None:
    assert scene.lost.wait(PATIENCE)
    assert time.monotonic() >= scene.lease.ends
    scene.keeper.stopped()
    scene.keeper.close()
    assert not scene.ended.is_set()


def test_what_does_not_stop_ends_with_its_process(scene: Scene) -> None:
    assert scene.ended.wait(PATIENCE)
    assert scene.lost.is_set()
    scene.keeper.close()


def test_one_that_is_closed_loses_nothing(scene: Scene) -> None:
    scene.keeper.close()
    assert not scene.lost.is_set()
