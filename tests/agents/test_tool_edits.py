"""Edits and writes are shell commands, for whatever is in a file."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from gymnasium.spaces import Text
from hypothesis import assume, given
from hypothesis import strategies as st

from megaflow_adapters.agents.tool.commands import CommandTools

# What a shell, awk or printf might take for its own; and letters of several bytes.
LETTERS = st.text("ab\n\\\t'\"$`%&-\r é中", max_size=12)


class _Env:
    """Runs commands; only `step`, which is all that the tools use."""

    action_space = Text(10_000)

    def __init__(self, shell: str, folder: str | Path) -> None:
        self.shell, self.folder, self.status = shell, folder, 0

    async def step(
        self, action: str, about: Mapping[str, object]
    ) -> tuple[str, float, bool, bool, dict[str, object]]:
        ran = await asyncio.create_subprocess_exec(self.shell, "-c", action, cwd=self.folder)
        self.status = await ran.wait()
        return "", 0.0, False, False, {}


def call(env: _Env, name: str, **arguments: str) -> int:
    """Call a tool; the status that its command ended with."""
    tools = CommandTools(env, "")  # type: ignore[arg-type]
    asyncio.run(tools.call(name, arguments, {}))
    return env.status


@pytest.mark.parametrize("shell", ["sh", "bash"])
@given(before=LETTERS, old=LETTERS.filter(bool), after=LETTERS, new=LETTERS)
def test_a_piece_is_replaced_and_nothing_else(
    shell: str, before: str, old: str, after: str, new: str
) -> None:
    text = before + old + after
    assume(sum(text.startswith(old, at) for at in range(len(text))) == 1)
    with tempfile.TemporaryDirectory() as folder:
        env, file = _Env(shell, folder), Path(folder, "a=b")
        assert call(env, "write", path="a=b", content=text) == 0
        assert file.read_bytes() == text.encode()
        file.chmod(0o640)
        assert call(env, "edit", path="a=b", old=old, new=new) == 0
        assert file.read_bytes() == (before + new + after).encode()
        assert file.stat().st_mode & 0o777 == 0o640


def test_an_edit_that_cannot_be_made_changes_nothing(tmp_path: Path) -> None:
    env = _Env("sh", tmp_path)
    (tmp_path / "f").write_text("x")
    assert call(env, "edit", path="f", old="y", new="z") == 1
    assert (tmp_path / "f").read_text() == "x"
    assert call(env, "edit", path="none", old="y", new="z") != 0
    assert not (tmp_path / "none").exists()
