"""What an environment asks for, where its constructor takes sandboxes: answered before it is built.

A class whose constructor has a parameter for a sandbox says what it needs by a classmethod `sandboxes`, which
gets the constructor's other arguments and gives one request for each such parameter, by its name:

```
@classmethod
def sandboxes(cls, task: str, **rest: object) -> Mapping[str, SandboxRequest]:
    return {"sandbox": SandboxRequest(image=image_of(task))}
```
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from megaflow.errors import InvalidArgument

__all__ = ["PHASES", "Phase", "Reach", "SandboxRequest", "from_value", "to_value"]

Phase = Literal["setup", "agent", "verifier"]
PHASES: tuple[Phase, ...] = ("setup", "agent", "verifier")
# What is reached: nothing, what the host reaches, or the hosts that are named.
Reach = Literal["none", "public"] | tuple[str, ...]


@dataclass(frozen=True)
class SandboxRequest:
    """What a sandbox must be like; what is None is left to the template or the server.

    Attributes:
        template: one of the server's, by name; None has it made of the fields below.
        image: the file system; None for an environment that needs none, so that processes will do.
        context: the folder of a Dockerfile on the server's host that the image is built from where it is not there.
        build_timeout: seconds that building it may take; None leaves it to the server.
        directory: where commands begin.
        folders: absolute paths, and "." for where commands begin: made where they are missing, and given with all that
            is in them to the user of its commands where that may not write to them, as far as images have users.
        network: what is reached in each phase; "none" in those that are not named.
        user: who runs the commands of each phase; the image's own in those that are not named.
        cpus: processors, at most.
        memory: bytes, at most.
        disk: bytes written, at most.
        environ: beside what the image sets.
        evidence: absolute paths of files that a verifier leaves, without which its verdict does not count.
    """

    template: str | None = None
    image: str | None = None
    context: str | None = None
    build_timeout: float | None = None
    directory: str | None = None
    folders: tuple[str, ...] = ()
    network: Mapping[Phase, Reach] = field(default_factory=dict, hash=False)
    user: Mapping[Phase, str] = field(default_factory=dict, hash=False)
    cpus: float | None = None
    memory: int | None = None
    disk: int | None = None
    environ: Mapping[str, str] = field(default_factory=dict, hash=False)
    evidence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("template", "image", "context"):
            _check(self, name, _is_text, "text, or None")
        _check(self, "directory", _is_path, "an absolute path, or None")
        for name in ("build_timeout", "cpus"):
            _check(self, name, _is_amount, "a number above 0, or None")
        for name in ("memory", "disk"):
            _check(self, name, _is_count, "a whole number above 0, or None")
        _check_phases(self, "network", _is_reach, "'none', 'public', or a tuple of names of hosts")
        _check_phases(self, "user", _is_text, "a user's name or number, as text")
        environ: object = self.environ
        if not isinstance(environ, Mapping) or not all(map(_is_variable, environ.items())):
            raise InvalidArgument(
                f"environ={environ!r}: takes a dict of text by names, which are not empty and without '='"
            )
        folders: object = self.folders
        if not isinstance(folders, tuple) or not all(
            one == "." or _is_path(one) for one in folders
        ):
            raise InvalidArgument(f"folders={folders!r}: takes a tuple of absolute paths, and '.'")
        evidence: object = self.evidence
        if not isinstance(evidence, tuple) or not all(map(_is_path, evidence)):
            raise InvalidArgument(f"evidence={evidence!r}: takes a tuple of absolute paths")


def _check(
    request: SandboxRequest, name: str, is_one: Callable[[object], bool], takes: str
) -> None:
    value = getattr(request, name)
    if value is not None and not is_one(value):
        raise InvalidArgument(f"{name}={value!r}: takes {takes}")


def _check_phases(
    request: SandboxRequest, name: str, is_one: Callable[[object], bool], takes: str
) -> None:
    value = getattr(request, name)
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{name}={value!r}: takes a dict by phases")
    for phase, given in value.items():
        if phase not in PHASES:
            raise InvalidArgument(f"{name}: no phase {phase!r}; there are {', '.join(PHASES)}")
        if not is_one(given):
            raise InvalidArgument(f"{name}.{phase}={given!r}: takes {takes}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/") and "\0" not in value


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf  # refuses nan, too


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_amount(value)


def _is_reach(value: object) -> bool:
    named = isinstance(value, tuple) and value != () and all(map(_is_text, value))
    return named or value in ("none", "public")


def _is_variable(item: tuple[object, object]) -> bool:
    name, value = item
    return _is_text(name) and "=" not in str(name) and isinstance(value, str) and "\0" not in value


def to_value(request: SandboxRequest) -> dict[str, Any]:
    """What `from_value` takes, of values that travel."""
    return asdict(request)


def from_value(given: object) -> SandboxRequest:
    """The request of what `to_value` gave.

    Raises:
        InvalidArgument: it is none.
    """
    if not isinstance(given, dict):
        raise InvalidArgument(f"a request for a sandbox is a dict, not {given!r}")
    try:
        return SandboxRequest(**given)
    except TypeError as error:
        raise InvalidArgument(f"a request for a sandbox: {error}") from error
