from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import signal

import pytest
from hypothesis import settings

import requirement
import version_sets

# What the developer's own shell sets must not reach the tests; a window needs no screen.
for name in [name for name in os.environ if name.startswith("MEGAFLOW_")]:
    if not name.startswith("MEGAFLOW_TEST_"):
        del os.environ[name]
# Before a test module imports gRPC by itself: only then are tests that fork protected.
importlib.import_module("megaflow")
# A shell has what it starts in the background ignore Ctrl-C and Ctrl-\, and nohup has it ignore SIGHUP: so would all
# that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

# The same examples on every run, and no judgement of a busy machine's speed. The suite runs on three sets of
# versions, and whole on the newest: what examples find in our own code is found there, and what another gymnasium,
# numpy, gRPC or protobuf changes shows in few.
settings.register_profile("megaflow", derandomize=True, deadline=None)
settings.register_profile("megaflow-few", settings.get_profile("megaflow"), max_examples=20)
settings.load_profile("megaflow" if version_sets.WHOLE else "megaflow-few")
# hypothesis tries the constants of those of our modules that are loaded: all are, whichever test comes first.
for package in map(importlib.import_module, ("megaflow", "megaflow_server")):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)

# What no version of a dependency changes: the distribution and its documents, and benchmarks.
collect_ignore = (
    []
    if version_sets.WHOLE
    else [
        "bench",
        "repository/test_distribution.py",
        "repository/test_documentation.py",
        "repository/test_specification.py",
    ]
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "requires(*names): skipped where one is missing; see tests/requirement.py"
    )
    requirement.enforced(os.environ.get(requirement.VARIABLE, ""))


def pytest_collection_finish() -> None:
    """What is there by now stays until the end: the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    requirement.setup(item)
