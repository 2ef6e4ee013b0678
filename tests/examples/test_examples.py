"""The examples, run as their readers run them."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from leftovers import place

EXAMPLES = Path(__file__).parents[2] / "examples"
ADAPTERS = Path(__file__).parents[1] / "adapters"

# For each example what it must have printed, in this order: regular expressions.
SHORT = {
    "single_file.py": [r"8 environments in processes \{\d+", r"after 10 steps at \["],
    "gym_make.py": [
        r"an episode of \d+ steps",
        r"observations of shape \(4, 4\)",
        r"remote/FrozenLake-v1",
        r"FrozenLake starts at 0",
    ],
    "lost_worker.py": [
        r"lost: \(.*3,?\), because worker-\d .*SIGABRT",
        r"the others have not noticed: \[.*0.0\]",
        r"lost \[.* True\]",
    ],
}


def test_every_example_is_run() -> None:
    # Those of trainers' frameworks are run where these are installed.
    adapters = "".join(path.read_text() for path in ADAPTERS.glob("test_*.py"))
    here = {"demo.py", *SHORT}
    every = {path.name for path in EXAMPLES.glob("*.py")}
    assert here <= every
    assert not [name for name in every - here if f'"{name}"' not in adapters]


@pytest.mark.parametrize("name", SHORT)
def test_short_example(name: str) -> None:
    with place() as here:
        printed = here.run("-W", "error", str(EXAMPLES / name))
        here.assert_nothing_left()
    assert re.search(".*".join(SHORT[name]), printed, re.DOTALL), printed


@pytest.mark.long
@pytest.mark.timeout(180)
def test_demo_to_its_end() -> None:
    with place() as here:
        printed = here.run(str(EXAMPLES / "demo.py"))
        here.assert_nothing_left()
    expected = [
        r"Mean return over 100 episodes: (4[89]\d|500)",
        r"agent 'oracle':.*mean reward +1\n",
        r"agent 'nop':.*mean reward +0\n.*from submission to the last end",
    ]
    assert re.search(".*".join(expected), printed, re.DOTALL), printed


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("A server with", signal.SIGINT),
        ("A server with", signal.SIGTERM),
        ("generation", signal.SIGINT),
        ("oracle: 0/", signal.SIGTERM),  # half a minute later
    ],
)
def test_demo_that_is_stopped_leaves_nothing(line: str, number: signal.Signals) -> None:
    with place() as here, here.start("-W", "error", str(EXAMPLES / "demo.py")) as demo:
        assert demo.stdout is not None
        while line not in (printed := demo.stdout.readline()):
            assert printed, "it ended by itself"
        demo.send_signal(number)
        printed, errors = demo.communicate(timeout=30)
        assert demo.returncode == 130, errors
        assert printed.endswith("Stopped.\n")
        assert "Traceback" not in errors
        here.assert_nothing_left()
