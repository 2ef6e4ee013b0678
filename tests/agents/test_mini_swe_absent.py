"""The agent `mini-swe-agent` where the package is not installed."""

from __future__ import annotations

import sys

import pytest

from megaflow.errors import FailedPrecondition
from megaflow_adapters.agents.mini_swe import MiniSweAgent


def test_without_the_package_it_says_which_extra_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaffold = "megaflow_adapters.agents.mini_swe.scaffold"
    monkeypatch.delitem(sys.modules, scaffold, raising=False)
    # What another test has imported is there, too.
    loaded = [name for name in sys.modules if name.startswith("minisweagent.")]
    for name in ("minisweagent", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FailedPrecondition, match=r"minisweagent.*megaflow\[mini-swe-agent\]"):
        MiniSweAgent()
