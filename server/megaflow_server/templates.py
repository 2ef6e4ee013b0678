"""Templates: what a session's instance is made of, and how many of them wait. `[templates.NAME]` of megaflow.toml."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow_server.backends.spec import Limits, Profile

__all__ = [
    "PHASES",
    "Mode",
    "Phase",
    "PoolSize",
    "Probe",
    "Reach",
    "Reaches",
    "Requests",
    "Template",
    "Users",
    "find_template",
]

Phase = Literal["setup", "agent", "verifier"]
PHASES: tuple[Phase, ...] = ("setup", "agent", "verifier")
# What is reached in a phase: nothing, what the host reaches, or the hosts that are named.
Reach = Literal["none", "public"] | tuple[str, ...]
# An instance for one session; one that is reset and verified between sessions; or whichever is quicker.
Mode = Literal["ephemeral", "persistent", "auto"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


@dataclass(frozen=True)
class Reaches:
    """What is reached in each phase."""

    setup: Reach = "none"
    agent: Reach = "none"
    verifier: Reach = "none"

    def of(self, phase: Phase) -> Reach:
        reach: Reach = getattr(self, phase)
        return reach


@dataclass(frozen=True)
class Users:
    """Who runs the commands of each phase: a name or id in the image; None for the instance's own."""

    setup: str | None = None
    agent: str | None = None
    verifier: str | None = None

    def of(self, phase: Phase) -> str | None:
        user: str | None = getattr(self, phase)
        return user


@dataclass(frozen=True)
class Requests:
    """What an instance is counted with where several share a host; None where nobody counts.

    Attributes:
        cpu: processors.
        memory: bytes.
    """

    cpu: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class PoolSize:
    """How many instances of a template there are; kept for each image apart.

    Attributes:
        min: that always wait, whatever the demand.
        target: that wait once somebody has asked for one, or announced it.
        max: at once, waiting and busy together.
        max_reuses: sessions that an instance has after its first, until it is destroyed.
    """

    min: int = 0
    target: int = 0
    max: int = 16
    max_reuses: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max or not 0 <= self.target <= self.max:
            raise InvalidArgument(
                f"pool: min={self.min}, target={self.target}, max={self.max}: takes min and target from 0 to max"
            )
        if self.max < 1 or self.max_reuses < 0:
            raise InvalidArgument(
                f"pool: max={self.max}, max_reuses={self.max_reuses}: takes 1 or more, and 0 or more"
            )


@dataclass(frozen=True)
class Probe:
    """What must hold before an instance is used again, beside what it was like when it was fresh.

    Attributes:
        commands: each must end with exit code 0.
        ignore: absolute paths, of files and of folders with all that is in them, that may differ.
    """

    commands: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in self.ignore:
            if not path.startswith("/") or ".." in path.split("/"):
                raise InvalidArgument(f"probe.ignore: {path!r} is no absolute path without '..'")


@dataclass(frozen=True)
class Template:
    """What an instance is made of.

    Attributes:
        name: 1 to 32 letters, digits, '_', '.' and '-'.
        backend: what starts it.
        image: the file system that it is in; None where the backend has no images, or each task has its own.
        profile: how far it is kept apart from its host; None leaves it to the backend.
        network: what is reached in each phase.
        user: who runs the commands of each phase.
        requests: what it is counted with.
        limits: what it may use at most.
        pool: how many there are.
        mode: whether an instance serves several sessions.
        reset: commands that are run in it after each session; each must end with exit code 0.
        probe: what must hold then.
        evidence: absolute paths of files that a verifier leaves, without which its verdict does not count.
        directory: where commands begin; None leaves it to the image.
        folders: that the user of its commands must be able to write to; see `SandboxRequest`.
        environ: beside what the image sets.
    """

    name: str
    backend: str = "process"
    image: str | None = None
    profile: Profile | None = None
    network: Reaches = Reaches()
    user: Users = Users()
    requests: Requests = Requests()
    limits: Limits = field(default_factory=Limits)
    pool: PoolSize = PoolSize()
    mode: Mode = "auto"
    reset: tuple[str, ...] = ()
    probe: Probe = Probe()
    evidence: tuple[str, ...] = ()
    directory: str | None = None
    folders: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument(
                f"template {self.name!r}: a name takes 1 to 32 letters, digits, '_', '.' and '-', and begins "
                "with a letter or a digit"
            )

    def used(self, mode: Mode) -> Template:
        """The template whose instances are used like this; itself where "auto" leaves that to it.

        Those that always wait are its own alone.
        """
        if mode in ("auto", self.mode):
            return self
        return replace(self, mode=mode, pool=replace(self.pool, min=0))

    def with_image(self, image: str | None) -> Template:
        """The template of one image: its own where `image` is None.

        Raises:
            FailedPrecondition: it names another one, which is not to be laid over.
        """
        if image is None or image == self.image:
            return self
        if self.image is not None:
            raise FailedPrecondition(
                f"template {self.name}: image={self.image!r} is fixed, and {image!r} was asked for; leave the "
                "template's image out where each task brings its own"
            )
        return replace(self, image=image)


def find_template(templates: Mapping[str, Template], name: str) -> Template:
    """A template by its name.

    Raises:
        NotFound: there is none, with the nearest.
    """
    found = templates.get(name)
    if found is not None:
        return found
    close = difflib.get_close_matches(name, templates, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = ", ".join(sorted(templates)) or "none"
    raise NotFound(f"template={name!r}: this server has none of this name; it has {known}{hint}")
