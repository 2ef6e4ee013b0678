"""The contract of a backend: what starts, watches and ends instances.

`megaflow_server.testing.backends.BackendContract` is this contract as tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from megaflow.errors import InvalidArgument
from megaflow_server.backends.instance import (
    BareInstance,
    Change,
    Event,
    Exit,
    Image,
    Instance,
    InstanceState,
    Stats,
    Stream,
    Terminal,
    TerminalKind,
    lacks,
)
from megaflow_server.backends.spec import (
    IDLE,
    InstanceSpec,
    Limits,
    Mount,
    Network,
    Profile,
    honour_only,
)

__all__ = [
    "IDLE",
    "Backend",
    "BareInstance",
    "Change",
    "Event",
    "Exit",
    "Image",
    "Instance",
    "InstanceSpec",
    "InstanceState",
    "Limits",
    "Mount",
    "Network",
    "Profile",
    "Progress",
    "Stats",
    "Stream",
    "Terminal",
    "TerminalKind",
    "check_grace",
    "has_labels",
    "honour_only",
    "lacks",
    "require",
]

# Told, while an image is fetched: what goes on, bytes here so far, bytes in all (0 where unknown).
Progress = Callable[[str, int, int], None]


class Backend(Protocol):
    """Starts, watches and ends instances. Used from one event loop.

    An instance that ended stays listed, so that a repeated `create` does not start it a second
    time: whoever created it destroys it, however it ended.
    """

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """What there is to know of it, in one line for people."""

    @property
    def profile(self) -> Profile | None:
        """Of instances whose specification names none; None where it has no profiles."""

    @property
    def place(self) -> str | None:
        """Where instances live on when this process ends, so that another one finds them; None: they do not."""

    async def close(self) -> None:
        """Let go of what it holds; what it started, it leaves alone."""

    async def create(self, spec: InstanceSpec) -> Instance:
        """Start an instance and return once it runs; one of that id that exists is returned as it is.

        Raises:
            InvalidArgument: the command, directory or log of the spec cannot be used.
            ResourceExhausted: the host or cluster has no room for it now.
            FailedPrecondition: this backend cannot work here.
        """

    async def destroy(self, instance_id: str, *, grace: float) -> None:
        """End an instance and forget it; return when nothing that it started is left.

        Its main process gets SIGTERM and `grace` seconds, then all of it gets SIGKILL; with 0
        seconds, SIGKILL at once. An id that is not there is fine; of several calls the shortest
        grace counts.

        Raises:
            DeadlineExceeded: something in it withstands SIGKILL; it stays listed.
        """

    async def list(self, labels: Mapping[str, str]) -> Sequence[Instance]:
        """The instances whose labels include these, ended ones too, until they are destroyed."""

    def processes(self, instance_id: str) -> Sequence[int]:
        """What an instance has started, and what that has: processes on this host that still run.

        Without its main one. Empty where there is no such instance, or where the backend has no such thing.
        """

    def events(self) -> AsyncIterator[Event]:
        """Every event from this call on; each subscriber sees all of them, in order."""

    def capabilities(self) -> frozenset[str]:
        """What this backend has beyond the rest.

        "images" for `prepare` and `InstanceSpec.image`, "streams", "terminals", "ending", "copy" (`put` and `get`),
        "commit" (with `images` and `remove` for what it made), "inspect" (`changes` and `programs`), "reach" (of
        another network), "listen" (at its loopback), "stats".
        """

    async def prepare(self, image: str, progress: Progress | None = None) -> None:
        """Have an image at hand; `create` fetches none. Calls for one image share one fetch.

        Args:
            progress: called on the event loop, while something is fetched.

        Raises:
            NotFound: there is no such image, or none that this host may have.
            FailedPrecondition: the image is not pinned where it must be, or "images" is not in
                `capabilities()`.
            Unavailable: its registry cannot be reached, or stopped sending.
        """

    async def images(self, labels: Mapping[str, str]) -> Sequence[Image]:
        """The images that `Instance.commit` made whose labels include these; needs "commit"."""

    async def remove(self, image: str) -> None:
        """Remove an image that `Instance.commit` made, by its id; one that is not there is fine.

        Raises:
            FailedPrecondition: an instance of it exists, or an image that came of one, or "commit" is
                lacking.
        """


def require(backend: Backend, capability: str) -> None:
    """Raise FailedPrecondition where the backend lacks a capability."""
    if capability not in backend.capabilities():
        lacks(backend.name, capability)


def check_grace(grace: float) -> None:
    """Raise InvalidArgument for a grace that is no number of seconds from 0 on."""
    if not grace >= 0:  # refuses nan, too
        raise InvalidArgument(f"grace={grace!r}: takes seconds, 0 or more")


def has_labels(instance: Instance, labels: Mapping[str, str]) -> bool:
    """Whether the labels of an instance include these."""
    return labels.items() <= instance.labels.items()
