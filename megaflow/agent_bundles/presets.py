"""Command-line agents that are known by name: how each is asked, and what its bundle is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from megaflow.agent_bundles.recipe import Recipe
from megaflow.errors import NotFound

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """One of them.

    Attributes:
        recipe: its `command` and `env` are those of the agent `cli`, also where the image has the program itself.
        tested: whether megaflow's developers have run it, in this version, with a model that was told what to say.
    """

    recipe: Recipe
    tested: bool


# Whatever model they ask for, the session's default role answers. What a provider would run, as a search of the web,
# is switched off, and so is what they tell their makers.
_CLAUDE_CODE: Final = Recipe(
    name="claude-code",
    version="2.1.330",
    command=(
        "mkdir -p /tmp/.claude-code && HOME=/tmp/.claude-code "
        'claude --print --dangerously-skip-permissions --disallowedTools WebSearch -- "$MEGAFLOW_INSTRUCTION"'
    ),
    runtime="node",
    packages=("@anthropic-ai/claude-code@2.1.330",),
    tools=("bash",),
    leave_out=("lib/node_modules/@anthropic-ai/claude-code",),
    programs={"claude": ["lib/node_modules/@anthropic-ai/claude-code-linux-x64/claude"]},
    # Without the first it refuses to work as root.
    env={
        "IS_SANDBOX": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "ANTHROPIC_MODEL": "policy",
        "ANTHROPIC_SMALL_FAST_MODEL": "policy",
    },
)
_CODEX: Final = Recipe(
    name="codex",
    version="0.169.0",
    command=(
        "mkdir -p /tmp/.codex && CODEX_HOME=/tmp/.codex HOME=/tmp/.codex "
        "codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox "
        "-c model_provider=megaflow -c model_providers.megaflow.name=megaflow "
        '-c model_providers.megaflow.base_url="$OPENAI_BASE_URL" '
        "-c model_providers.megaflow.env_key=OPENAI_API_KEY -c model_providers.megaflow.wire_api=responses "
        '-c web_search=disabled -c features.multi_agent=false -m policy -- "$MEGAFLOW_INSTRUCTION" </dev/null'
    ),
    runtime="node",
    packages=("@openai/codex@0.169.0",),
    leave_out=("lib/node_modules/@openai/codex-linux-x64/vendor/*/codex-resources/voice",),
    programs={
        "codex": [
            "lib/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"
        ]
    },
)
_QWEN_CODE: Final = Recipe(
    name="qwen-code",
    version="0.24.4",
    command=(
        "mkdir -p /tmp/.qwen-code && HOME=/tmp/.qwen-code "
        'qwen --yolo --auth-type openai --prompt "$MEGAFLOW_INSTRUCTION" </dev/null'
    ),
    runtime="node",
    packages=("@qwen-code/qwen-code@0.24.4",),
    tools=("bash",),
    leave_out=(
        "lib/node_modules/@img",
        "lib/node_modules/@qwen-code/qwen-code/vendor/ripgrep/*-darwin",
        "lib/node_modules/@qwen-code/qwen-code/vendor/ripgrep/*-win32",
        "lib/node_modules/@qwen-code/qwen-code/vendor/ripgrep/arm64-*",
        "lib/node_modules/@qwen-code/qwen-code/web-shell",
    ),
    programs={"qwen": ["node", "lib/node_modules/@qwen-code/qwen-code/cli.js"]},
    env={"OPENAI_MODEL": "policy", "QWEN_CODE_NO_RELAUNCH": "1"},
)
_OPENHANDS: Final = Recipe(
    name="openhands",
    version="1.16.0",
    command=(
        "mkdir -p /tmp/.openhands && HOME=/tmp/.openhands "
        'LLM_BASE_URL="$OPENAI_BASE_URL" LLM_API_KEY="$OPENAI_API_KEY" LLM_MODEL=openai/policy '
        'openhands --headless --override-with-envs --task "$MEGAFLOW_INSTRUCTION"'
    ),
    runtime="python",
    packages=("openhands==1.16.0",),
    programs={"openhands": ["python", "-I", "-m", "openhands_cli.entrypoint"]},
)

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        one.recipe.name: one
        for one in (
            Preset(_CLAUDE_CODE, tested=False),
            Preset(_CODEX, tested=True),
            Preset(_OPENHANDS, tested=False),
            Preset(_QWEN_CODE, tested=True),
        )
    }
)


def preset(name: str) -> Preset:
    """One by its name. Raises NotFound."""
    if name not in PRESETS:
        raise NotFound(f"preset={name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]
