from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from commands import Command


def test_version(command: Command) -> None:
    done = command("--version")
    assert (done.status, done.out) == (0, f"megaflow {version('megaflow')}\n")


@pytest.mark.parametrize("name", ["serve", "envs", "tokens", "doctor", "export", "bench"])
def test_help_names_every_command(command: Command, name: str) -> None:
    listed = command("--help")
    assert (listed.status, listed.err) == (0, "")
    assert f" {name} " in listed.out
    own = command(name, "--help")
    assert own.status == 0
    assert f"megaflow {name}" in own.out


@pytest.mark.parametrize("arguments", [["serv"], ["envs", "shw"], ["envs", "show"], ["--foo"]])
def test_wrong_usage(command: Command, arguments: list[str]) -> None:
    done = command(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from megaflow_server.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print({'grpc', 'gymnasium', 'megaflow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
