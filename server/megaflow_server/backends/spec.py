"""What to start: the specification of an instance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from megaflow.errors import FailedPrecondition, InvalidArgument

__all__ = [
    "IDLE",
    "InstanceSpec",
    "Limits",
    "Mount",
    "Network",
    "Profile",
    "filled",
    "honour_only",
]

# How far an instance is kept apart from its host and from other instances.
Profile = Literal["strict", "standard", "trusted"]
# What an instance reaches: nothing, or what its host reaches, though no other instance.
Network = Literal["none", "public"]

# The main process of an instance that programs are run in: any image with a shell has it.
IDLE = ("sleep", "2147483647")

# What every backend can use as a name: Docker's rule for containers, with a DNS label's length.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Limits:
    """What an instance may use at most; None leaves it to the profile.

    Attributes:
        cpu: processors, 0.5 being half of one.
        memory: bytes, with no swap beside them.
        pids: processes and threads.
        disk: bytes written to its own file system, with all that lies in the volumes of its image.
    """

    cpu: float | None = None
    memory: int | None = None
    pids: int | None = None
    disk: int | None = None

    def __post_init__(self) -> None:
        for name in ("cpu", "memory", "pids", "disk"):
            value = getattr(self, name)
            if value is not None and not value > 0:  # refuses nan, too
                raise InvalidArgument(f"limits.{name}={value!r}: takes a number above 0, or None")


_GIB = 1 << 30
_LIMITS: Mapping[Profile, Limits] = {
    "strict": Limits(cpu=1.0, memory=_GIB, pids=256, disk=4 * _GIB),
    "standard": Limits(cpu=2.0, memory=4 * _GIB, pids=1024, disk=16 * _GIB),
    "trusted": Limits(),
}


def filled(limits: Limits, profile: Profile | None) -> Limits:
    """Limits with what they leave to a profile filled in; without profiles, nothing is."""
    defaults = Limits() if profile is None else _LIMITS[profile]
    given = {name: value for name, value in vars(limits).items() if value is not None}
    return replace(defaults, **given)


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host, seen inside an instance at the absolute path `target`."""

    source: Path
    target: str
    read_only: bool = True

    def __post_init__(self) -> None:
        for name, path in (("source", str(self.source)), ("target", self.target)):
            if not path.startswith("/"):
                raise InvalidArgument(f"mounts: {name}={path!r} is no absolute path")


@dataclass(frozen=True)
class InstanceSpec:
    """What to start.

    Attributes:
        id: chosen by the caller, so that a repeated `create` finds what the first one made.
        argv: the command; a bare name is looked up on the PATH of `environ`.
        log: the file that standard output and error are appended to; its folder is made.
        config: what the instance reads on its standard input, up to end-of-file. Secrets travel here;
            `argv` and `environ` can be read by other processes.
        environ: the complete environment; nothing is inherited, but what an image brings along. A
            backend may add names of its own that begin with MEGAFLOW_.
        directory: the working directory; None leaves it to the backend, or to the image.
        labels: what `Backend.list` selects by: run id, template, owner.
        image: the file system to run in; None where the backend has no images.
        profile: None leaves it to the backend.
        limits: what it may use.
        network: what it reaches; None leaves it to the profile.
        user: who runs `argv`: a name or id in the image, `user` or `user:group`; None leaves it to the
            image and the profile.
        mounts: what it sees of its host.
        read_only: whether its own file system is read-only, but for a temporary folder in memory.

    A backend that cannot give what one of the last seven asks for refuses it: FailedPrecondition.
    """

    id: str
    argv: tuple[str, ...]
    log: Path
    config: bytes = field(default=b"", repr=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    directory: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    profile: Profile | None = None
    limits: Limits = Limits()
    network: Network | None = None
    user: str | None = None
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise InvalidArgument(
                f"id={self.id!r}: takes 1 to 63 letters, digits, '_', '.' and '-', and begins "
                "with a letter or a digit"
            )
        if not self.argv or not self.argv[0]:
            raise InvalidArgument(f"argv={self.argv!r}: instance {self.id} needs a command to run")


def honour_only(spec: InstanceSpec, honoured: frozenset[str], backend: str) -> None:
    """Raise FailedPrecondition where a spec asks for what a backend cannot give.

    Args:
        honoured: of what not every backend can give, the names of what this one can; a limit is
            named as "limits.memory".
    """
    asked = {
        "image": spec.image is not None,
        "profile": spec.profile is not None,
        "network": spec.network is not None,
        "user": spec.user is not None,
        "mounts": bool(spec.mounts),
        "read_only": spec.read_only,
        "limits.cpu": spec.limits.cpu is not None,
        "limits.memory": spec.limits.memory is not None,
        "limits.pids": spec.limits.pids is not None,
        "limits.disk": spec.limits.disk is not None,
    }
    if refused := [name for name, is_asked in asked.items() if is_asked and name not in honoured]:
        raise FailedPrecondition(
            f"instance {spec.id} asks for {', '.join(refused)}, which the {backend} backend cannot "
            "give; leave it out, or choose a backend that can, such as docker"
        )
