"""The tables `[templates.NAME]` of megaflow.toml."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from megaflow_server.backends.spec import Limits
from megaflow_server.config_values import Memory, Processors
from megaflow_server.requested import Most
from megaflow_server.templates import (
    PHASES,
    PoolSize,
    Probe,
    Reach,
    Reaches,
    Requests,
    Template,
    Users,
)

__all__ = [
    "LimitsTable",
    "NetworkTable",
    "PoolTable",
    "ProbeTable",
    "RequestsTable",
    "ResourcesTable",
    "SandboxesTable",
    "TemplateTable",
    "UserTable",
]

_FROZEN = ConfigDict(extra="forbid", frozen=True, strict=True)


def _reach(given: object) -> Reach:
    if given in ("none", "public"):
        return given
    if isinstance(given, list) and given and all(isinstance(one, str) and one for one in given):
        return tuple(given)
    raise ValueError(
        'give "none", "public", or the hosts that may be reached, such as ["packages.example"]'
    )


def _path(given: object) -> object:
    if not isinstance(given, str) or not given.startswith("/") or ".." in given.split("/"):
        raise ValueError("give an absolute path without '..', in quotes")
    return given


def _each_phase(given: object) -> object:
    """One value for all phases, or a table of them."""
    return given if isinstance(given, dict) else dict.fromkeys(PHASES, given)


ReachValue = Annotated[Reach, BeforeValidator(_reach)]
InnerPath = Annotated[str, BeforeValidator(_path)]


class NetworkTable(BaseModel):
    """What is reached in each phase: one value for all of them, or a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # While the task is set up, while the agent works, while the verifier works. Default: nothing.
    setup: ReachValue = "none"
    agent: ReachValue = "none"
    verifier: ReachValue = "none"


class UserTable(BaseModel):
    """Who runs the commands of each phase: one name or id for all of them, or a table."""

    model_config = _FROZEN

    # Default: the image's own, or what its profile makes of that.
    setup: str | None = None
    agent: str | None = None
    verifier: str | None = None


class RequestsTable(BaseModel):
    """What an instance is counted with where several share a host."""

    model_config = _FROZEN

    # Default: not counted.
    cpu: Processors | None = None
    memory: Memory | None = None


class LimitsTable(BaseModel):
    """What an instance may use at most."""

    model_config = _FROZEN

    # Processors, bytes, processes, and bytes written to its file system. Default: the profile's.
    cpu: Processors | None = None
    memory: Memory | None = None
    pids: PositiveInt | None = None
    disk: Memory | None = None


class ResourcesTable(BaseModel):
    """What an instance is counted with, and what it may use."""

    model_config = _FROZEN

    requests: RequestsTable = Field(default_factory=RequestsTable)
    limits: LimitsTable = Field(default_factory=LimitsTable)

    @model_validator(mode="after")
    def _within(self) -> Self:
        for name in ("cpu", "memory"):
            asked, most = getattr(self.requests, name), getattr(self.limits, name)
            if asked is not None and most is not None and asked > most:
                raise ValueError(f"requests.{name} is more than limits.{name}: give at most that")
        return self


class PoolTable(BaseModel):
    """How many instances there are; of a template without an image, for each image apart but for `max`."""

    model_config = _FROZEN

    # That always wait. Default: none, since they take memory.
    min: NonNegativeInt = 0
    # That wait once somebody has asked for one. Default: none.
    target: NonNegativeInt = 0
    # At once, of all images. Default: what a large machine has room for.
    max: PositiveInt = 16
    # Sessions that one has after its first, until it is destroyed. Default: few enough that what adds up
    # unseen does not add up to much.
    max_reuses: NonNegativeInt = 20

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if max(self.min, self.target) > self.max:
            raise ValueError("give a min and a target of at most max")
        return self


class ProbeTable(BaseModel):
    """What must hold before an instance is used again, beside its being like a fresh one."""

    model_config = _FROZEN

    # Commands that must end with exit code 0. Default: none.
    commands: list[str] = []
    # Files and folders that may differ from those of a fresh one. Default: none.
    ignore: list[InnerPath] = []


class SandboxesTable(BaseModel):
    """The table `[sandboxes]`: what environments may ask for that name none of the templates."""

    model_config = _FROZEN

    # Processors, bytes, and bytes written to the file system. Default: the profile's; of the server behind
    # server=None, whose user it serves, any number.
    cpu: Processors | None = None
    memory: Memory | None = None
    disk: Memory | None = None
    # What may be reached. Default: what the profile has.
    network: ReachValue = "public"

    def most(self, default: Most) -> Most:
        """What it says, over the defaults."""
        return replace(
            default, **{name: value for name, value in self if name in self.model_fields_set}
        )


class TemplateTable(BaseModel):
    """A table `[templates.NAME]`: what a session's instance is made of."""

    model_config = _FROZEN

    # What starts it. Default: processes of this host, which take no image.
    backend: str = "process"
    # The file system that it is in. Default: each task brings its own.
    image: Annotated[str, Field(min_length=1)] | None = None
    # How far it is kept apart from its host. Default: as far as the backend can.
    profile: Literal["strict", "standard", "trusted"] | None = None
    # What it reaches, in each phase. Default: nothing.
    network: Annotated[NetworkTable, BeforeValidator(_each_phase)] = Field(
        default_factory=NetworkTable
    )
    # Who runs its commands, in each phase. Default: the image's own user.
    user: Annotated[UserTable, BeforeValidator(_each_phase)] = Field(default_factory=UserTable)
    # What it is counted with and what it may use. Default: the profile's.
    resources: ResourcesTable = Field(default_factory=ResourcesTable)
    # How many there are. Default: none waits.
    pool: PoolTable = Field(default_factory=PoolTable)
    # Whether one serves several sessions. Default: whichever is quicker, as measured.
    mode: Literal["ephemeral", "persistent", "auto"] = "auto"
    # Commands that are run in it between two sessions. Default: none.
    reset: list[str] = []
    # What must hold then. Default: that it is like a fresh one.
    probe: ProbeTable = Field(default_factory=ProbeTable)
    # Files that a verifier leaves, without which its verdict does not count. Default: none.
    evidence: list[InnerPath] = []
    # Where commands begin. Default: the image's own, or /workspace.
    directory: InnerPath | None = None
    # Variables beside the image's own. Default: none.
    environ: dict[str, str] = {}

    def template(self, name: str) -> Template:
        """What it says, under this name."""
        return Template(
            name,
            self.backend,
            self.image,
            profile=self.profile,
            network=Reaches(**dict(self.network)),
            user=Users(**dict(self.user)),
            requests=Requests(**dict(self.resources.requests)),
            limits=Limits(**dict(self.resources.limits)),
            pool=PoolSize(**dict(self.pool)),
            mode=self.mode,
            reset=tuple(self.reset),
            probe=Probe(tuple(self.probe.commands), tuple(self.probe.ignore)),
            evidence=tuple(self.evidence),
            directory=self.directory,
            environ=self.environ,
        )
