"""What can be told of a Dockerfile without an engine: its instructions, and that no engine would build it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from megaflow.errors import InvalidArgument

__all__ = ["check_dockerfile"]

_INSTRUCTIONS = frozenset(
    (
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
        *("LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME"),
        "WORKDIR",
    )
)
_HEREDOC = re.compile(r"<<-?\s*([\"']?)([A-Za-z_]\w*)\1")
# What says how the rest is read; these come first, before every other line.
_DIRECTIVE = re.compile(r"#\s*(escape|syntax|check)\s*=\s*(.*?)\s*", re.IGNORECASE)
_ESCAPES = ("\\", "`")


def check_dockerfile(path: Path, text: str) -> None:
    """Raise InvalidArgument for what no engine would build, by its line."""
    began = False
    for number, words in _instructions(text, _escape(path, text)):
        name = words[0].upper()
        if name not in _INSTRUCTIONS:
            raise InvalidArgument(
                f"{path}:{number}: {words[0]!r} is no instruction of a Dockerfile"
            )
        if not began and name not in ("FROM", "ARG"):
            raise InvalidArgument(f"{path}:{number}: {name} comes before the first FROM")
        began = began or name == "FROM"
        if name in ("COPY", "ADD") and any(".." in word.split("/") for word in words[1:-1]):
            raise InvalidArgument(
                f"{path}:{number}: {name} takes nothing from outside {path.parent}"
            )
    if not began:
        raise InvalidArgument(f"{path}:1: no FROM, which says what the image is built on")


def _escape(path: Path, text: str) -> str:
    """What a line ends with that is continued."""
    for number, line in enumerate(text.splitlines(), 1):
        directive = _DIRECTIVE.fullmatch(line.strip())
        if directive is None:
            break
        if directive[1].lower() == "escape":
            if directive[2] not in _ESCAPES:
                raise InvalidArgument(f"{path}:{number}: escape={directive[2]}: takes \\ or `")
            return directive[2]
    return "\\"


def _instructions(text: str, escape: str) -> Iterator[tuple[int, list[str]]]:
    """Each instruction's line and words; what continues it, comments and the text of heredocs are left out."""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        for marker in _HEREDOC.finditer(line):
            for _, inner in lines:
                if inner.strip() == marker[2]:
                    break
        whole, following = line.rstrip(), ""
        while whole.endswith(escape):
            for _, following in lines:
                # Neither ends an instruction.
                if following.strip() and not following.lstrip().startswith("#"):
                    break
            else:
                following = ""
            whole = f"{whole[:-1]} {following}".rstrip()
        yield number, whole.split()
