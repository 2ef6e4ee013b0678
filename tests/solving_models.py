"""Imported by runners, registers models that were told what to say to the shipped task find-copies."""

from __future__ import annotations

import json
from typing import Any

from megaflow.errors import Unavailable
from megaflow.generation import Request, ToolCall
from megaflow.plugins import register_model
from megaflow_adapters.models.scripted import ScriptedModel

# Wrong in one word, which is then edited.
_SCRIPT = """\
cd /app/files
find . -type f -size +0c | sed 's|^\\./||' | LC_ALL=C sort | while IFS= read -r path; do
  printf '%s\\t%s\\n' "$(md5sum <"$path")" "$path"
done | awk -F '\\t' '
  { if (count[$1]++) line[$1] = line[$1] "\\t" $2; else line[$1] = $2 }
  END { for (sum in line) if (count[sum] > 2) print line[sum] }' | LC_ALL=C sort
"""


def _call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(f"call-{name}", name, json.dumps(arguments))


def solver() -> ScriptedModel:
    return ScriptedModel(
        [
            _call("shell", command="ls -R /app/files"),
            _call("write", path="/tmp/find/copies.sh", content=_SCRIPT),
            _call("edit", path="/tmp/find/copies.sh", old="count[sum] > 2", new="count[sum] > 1"),
            _call("shell", command="sh /tmp/find/copies.sh >/app/copies.txt"),
            _call("submit"),
        ]
    )


def bash_solver() -> ScriptedModel:
    """For the agent mini-swe-agent, whose one tool is bash."""
    return ScriptedModel(
        [
            _call("bash", command="ls -R /app/files"),
            _call("bash", command=f"cat >/tmp/copies.sh <<'EOF'\n{_SCRIPT}EOF\n"),
            _call(
                "bash",
                command="sed -i 's/> 2/> 1/' /tmp/copies.sh && sh /tmp/copies.sh >/app/copies.txt",
            ),
            _call("bash", command="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
        ]
    )


def cli_solver() -> ScriptedModel:
    """For an agent in the sandbox, whose one tool is shell, and which stops where none is called."""
    return ScriptedModel(
        [
            _call("shell", command="ls -R /app/files"),
            _call("shell", command=f"cat >/tmp/copies.sh <<'EOF'\n{_SCRIPT}EOF\n"),
            _call(
                "shell",
                command="sed -i 's/> 2/> 1/' /tmp/copies.sh && sh /tmp/copies.sh >/app/copies.txt",
            ),
            "It is done.",
        ]
    )


def gone() -> ScriptedModel:
    """Answers once, and then never again."""

    def answer(request: Request) -> ToolCall:
        if len(request.messages) > 2:
            raise Unavailable("the engine has gone")
        return _call("shell", command="sleep 0")

    return ScriptedModel(answer)


def idler() -> ScriptedModel:
    return ScriptedModel(["I would rather not."], repeat=True)


register_model("solver", solver)
register_model("bash-solver", bash_solver)
register_model("cli-solver", cli_solver)
register_model("gone", gone)
register_model("idler", idler)
