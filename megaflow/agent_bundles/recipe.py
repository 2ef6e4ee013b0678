"""What a bundle is made of, as a TOML file says it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from megaflow.errors import InvalidArgument, NotFound

__all__ = ["RUNTIMES", "Recipe"]

RUNTIMES: Final = ("none", "python", "node")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a bundle is made of.

    Attributes:
        name, version: of the agent; small letters, digits, dots and dashes.
        command: what the agent `cli` runs, as its argument of that name.
        runtime: "python" (the interpreter that builds it), "node" (the one on PATH) or "none".
        packages: for pip or npm, pinned.
        files: beside the recipe, copied to the bundle's root: files and folders.
        programs: by name, what is to be found on PATH: arguments, with paths relative to the bundle; the first is one,
            or its runtime.
        tools: programs of the machine that builds it, for images that do not have them, as bash.
        leave_out: patterns of what the packages bring and nobody needs, relative to the bundle.
        env: variables of the command.
        base: the folder that `files` are in.
    """

    name: str
    version: str
    command: str
    runtime: str = "none"
    packages: Sequence[str] = ()
    files: Sequence[str] = ()
    programs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tools: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    base: Path = Path()

    def __post_init__(self) -> None:
        for name in ("name", "version"):
            if not isinstance(value := getattr(self, name), str) or not _NAME.fullmatch(value):
                raise InvalidArgument(f"{name}={value!r}: small letters, digits, dots and dashes")
        if not isinstance(self.command, str) or not self.command.strip():
            raise InvalidArgument(f"command={self.command!r}: give a line of shell")
        if self.runtime not in RUNTIMES:
            raise InvalidArgument(f"runtime={self.runtime!r}: there are {', '.join(RUNTIMES)}")
        if self.packages and self.runtime == "none":
            raise InvalidArgument("packages: take a runtime, python or node")
        for one in self.files:
            if Path(one).is_absolute() or ".." in Path(one).parts:
                raise InvalidArgument(f"files: {one!r} is no path below the recipe's folder")
        for program, argv in self.programs.items():
            if not _NAME.fullmatch(program) or isinstance(argv, str) or not argv:
                raise InvalidArgument(f"programs: {program}={argv!r}: takes a list of arguments")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Of a file. Raises NotFound, and InvalidArgument that names the file and the key."""
        try:
            told = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise NotFound(f"{path}: there is no such recipe") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidArgument(f"{path}: {error}") from error
        return cls.of(told, path)

    @classmethod
    def of(cls, told: Mapping[str, Any], path: Path) -> Self:
        """Of what a file says."""
        known = [one.name for one in fields(cls) if one.name != "base"]
        if unknown := sorted(set(told) - set(known)):
            raise InvalidArgument(f"{path}: {', '.join(unknown)}: a recipe has {', '.join(known)}")
        if missing := [one for one in ("name", "version", "command") if one not in told]:
            raise InvalidArgument(f"{path}: {', '.join(missing)}: is missing")
        try:
            return cls(**told, base=path.parent)
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error.message}") from None
