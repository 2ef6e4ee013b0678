from __future__ import annotations

import importlib
import os

import pytest
from hypothesis import settings

import requirement

# What the developer's own shell sets must not reach the tests; a window needs no screen.
for name in [name for name in os.environ if name.startswith("MEGAFLOW_")]:
    if not name.startswith("MEGAFLOW_TEST_"):
        del os.environ[name]
# Before a test module imports gRPC by itself: only then are tests that fork protected.
importlib.import_module("megaflow")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

# The same examples on every run, and no judgement of a busy machine's speed.
settings.register_profile("megaflow", derandomize=True, deadline=None)
settings.load_profile("megaflow")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "requires(*names): skipped where one is missing; see tests/requirement.py"
    )
    requirement.enforced(os.environ.get(requirement.VARIABLE, ""))


def pytest_runtest_setup(item: pytest.Item) -> None:
    requirement.setup(item)
