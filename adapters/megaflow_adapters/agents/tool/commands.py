"""Tools where an action is a shell command: a shell, files, and submission.

Each call is one action, a command that any POSIX shell takes: the actions alone repeat the episode.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping
from typing import Any, Final

from megaflow.agent import AgentEnv
from megaflow.generation import Image, Text, Tool
from megaflow_adapters.agents.tool.toolset import Answer, Misused, capped, field, function

__all__ = ["CommandTools"]

_SUBMIT: Final = "submit"
_TEXT: Final = {"type": "string"}

_TOOLS: Final = (
    function(
        "shell",
        "Run a command in the shell of the task. It keeps its folder and variables from call to call.",
        {"command": _TEXT},
    ),
    function(
        "edit",
        "Replace a piece of a text file. `old` has to be there exactly once, letter by letter, with its line ends.",
        {"path": _TEXT, "old": _TEXT, "new": _TEXT},
    ),
    function(
        "write",
        "Write a text file, in place of what was there; folders that are missing are made.",
        {"path": _TEXT, "content": _TEXT},
    ),
    function(
        _SUBMIT,
        "Say that the task is done. It is evaluated as it stands, and the work is over.",
        {},
    ),
)

# The whole file is one string: what is replaced may span lines, and its last line keeps the end that it had.
_REPLACE: Final = """\
function count(text, piece,   at, found) {
    while ((at = index(text, piece)) > 0) { found++; text = substr(text, at + 1) }
    return found + 0
}
{ text = text (NR > 1 ? "\\n" : "") $0 }
END {
    if (ENVIRON["MF_END"] == "") text = text "\\n"
    old = ENVIRON["MF_OLD"]
    found = count(text, old)
    if (found != 1) { print "old is there " found " times, not once; nothing was changed" > "/dev/stderr"; exit 1 }
    at = index(text, old)
    ORS = ""
    print substr(text, 1, at - 1) ENVIRON["MF_NEW"] substr(text, at + length(old))
}
"""


class CommandTools:
    """See `Toolset`.

    Args:
        instruction: the task's.
    """

    tools: tuple[Tool, ...] = _TOOLS
    system = (
        "You work on a task in a sandbox, with tools that run there. Look around before you change something, "
        "check what you did, and call submit when the task is done: nothing that you say without a tool has an effect."
    )

    def __init__(self, env: AgentEnv, instruction: str) -> None:
        self._env = env
        self._instruction = instruction

    def begin(self, observation: Any) -> tuple[Text | Image, ...]:
        """The instruction, and the first observation where that says something else."""
        said = str(observation)
        more = [] if said in ("", self._instruction) else [said]
        return (Text("\n\n".join([self._instruction, *more])),)

    async def call(
        self, name: str, arguments: Mapping[str, Any], about: Mapping[str, Any]
    ) -> Answer:
        """See `Toolset.call`."""
        command = self._command(name, arguments)
        longest = getattr(self._env.action_space, "max_length", len(command))
        if len(command) > longest:
            raise Misused(
                f"{name}: comes to a command of {len(command)} characters, and the environment takes {longest}: "
                "do it in several calls"
            )
        observation, _, terminated, truncated, info = await self._env.step(command, about)
        over = terminated or truncated
        said = capped(str(observation))
        if code := info.get("exit_code"):
            said = f"{said}\n[exit code {code}]" if said else f"[exit code {code}]"
        if over:
            said = f"{said}\n[the episode is over]"
        return Answer.of_text(said.strip("\n") or "[no output]", over=over)

    def _command(self, name: str, arguments: Mapping[str, Any]) -> str:
        match name:
            case "shell":
                command = field(name, arguments, "command")
                if command.strip() == _SUBMIT:
                    raise Misused("shell: call the tool submit where the task is done")
                return command
            case "edit":
                old = field(name, arguments, "old")
                if not old:
                    raise Misused("edit: old is empty; write makes a file")
                return _edit(field(name, arguments, "path"), old, field(name, arguments, "new"))
            case "write":
                return _write(field(name, arguments, "path"), field(name, arguments, "content"))
            case "submit":
                return _SUBMIT
        known = ", ".join(tool.name for tool in _TOOLS)
        raise Misused(f"there is no tool {name!r:.100}; there are {known}")


def _write(path: str, content: str) -> str:
    place = _path(path)
    folder = posixpath.dirname(place)
    made = f"mkdir -p -- {shlex.quote(folder)} && " if folder else ""
    return f"{made}printf %s {shlex.quote(content)} >{shlex.quote(place)}"


def _edit(path: str, old: str, new: str) -> str:
    place = shlex.quote(_path(path))
    # $(…) drops the file's last newline, if it ends with one: MF_END is empty then.
    variables = (
        f"MF_OLD={shlex.quote(old)} MF_NEW={shlex.quote(new)} "
        f'MF_END="$(tail -c 1 {place})" LC_ALL=C'
    )
    # A dot, so that the shell keeps the newlines at the end of what awk printed. Written through the same file, whose
    # owner and mode stay.
    return (
        f"mf_new=$({variables} awk {shlex.quote(_REPLACE)} {place} && echo .) && "
        f'printf %s "${{mf_new%.}}" >{place}; mf_code=$?; unset mf_new; (exit $mf_code)'
    )


def _path(path: str) -> str:
    if not path or "\0" in path:
        raise Misused(f"path={path!r:.100}: name a file")
    # No option, and no variable assignment where awk takes a file.
    return path if path.startswith("/") else f"./{path}"
