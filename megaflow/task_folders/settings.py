"""`task.toml`: its tables, by Harbor's names, and what of them megaflow honours.

What is known and cannot be given is refused by `TaskSettings.check`, and what is unknown where it is read: a
setting that was silently left out would change what is measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    model_validator,
)

__all__ = ["Artifact", "NetworkMode", "TaskSettings", "VerifierSettings"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def _absolute(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ValueError("give an absolute path of the sandbox, without '..'")
    return path


def _amount(given: object) -> object:
    match = _AMOUNT.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise ValueError('give an amount such as "2G" or "512M"')
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _user(given: object) -> object:
    text = str(given) if type(given) is int else given
    if not isinstance(text, str) or not _USER.fullmatch(text):
        raise ValueError("give a user's name or number")
    return text


def _host(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError(
            "give a host's name, such as packages.example or *.packages.example, without https:// and path"
        )
    return name


Seconds = Annotated[PositiveFloat, AllowInfNan(False)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Amount = Annotated[int, BeforeValidator(_amount)]
User = Annotated[str, BeforeValidator(_user)]
Host = Annotated[str, AfterValidator(_host)]
NetworkMode = Literal["public", "no-network", "allowlist"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Phase(_Table):
    """What the phases of an agent and of a verifier have in common."""

    user: User | None = None
    network_mode: NetworkMode | None = None
    allowed_hosts: list[Host] = []
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _hosts_are_of_a_list(self) -> _Phase:
        if self.allowed_hosts and self.network_mode != "allowlist":
            raise ValueError('allowed_hosts takes network_mode = "allowlist" beside it')
        return self


class EnvironmentSettings(_Table):
    """`[environment]`, and `[verifier.environment]`."""

    docker_image: str | None = None
    build_timeout_sec: Seconds = 600.0
    workdir: AbsolutePath | None = None
    cpus: Seconds | None = None
    memory_mb: Annotated[int, Field(gt=0)] | None = None
    storage_mb: Annotated[int, Field(gt=0)] | None = None
    env: dict[str, str] = {}
    network_mode: NetworkMode | None = None
    allowed_hosts: list[Host] = []
    # Older spellings of the three above.
    memory: Amount | None = None
    storage: Amount | None = None
    allow_internet: bool | None = None
    # What is refused unless it asks for nothing.
    os: str = "linux"
    gpus: int = 0
    gpu_types: list[str] | None = None
    tpu: dict[str, Any] | None = None
    mcp_servers: list[dict[str, Any]] = []
    skills_dir: str | None = None
    healthcheck: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_spelling(self) -> EnvironmentSettings:
        for new, old in (
            ("memory_mb", "memory"),
            ("storage_mb", "storage"),
            ("network_mode", "allow_internet"),
        ):
            if getattr(self, new) is not None and getattr(self, old) is not None:
                raise ValueError(f"{new} and {old} say the same thing; leave {old} out")
        if self.allowed_hosts and self.network_mode != "allowlist":
            raise ValueError('allowed_hosts takes network_mode = "allowlist" beside it')
        return self

    @property
    def mode(self) -> NetworkMode:
        if self.network_mode is None:
            return "no-network" if self.allow_internet is False else "public"
        return self.network_mode

    @property
    def memory_bytes(self) -> int | None:
        return self.memory if self.memory_mb is None else self.memory_mb << 20

    @property
    def storage_bytes(self) -> int | None:
        return self.storage if self.storage_mb is None else self.storage_mb << 20


class AgentSettings(_Phase):
    """`[agent]`."""

    timeout_sec: Seconds | None = None


class VerifierSettings(_Phase):
    """`[verifier]`."""

    timeout_sec: Seconds = 600.0
    environment_mode: Literal["shared", "separate"] | None = None
    environment: EnvironmentSettings | None = None
    collect: list[dict[str, Any]] = []

    @property
    def is_separate(self) -> bool:
        if self.environment_mode is None:
            return self.environment is not None
        return self.environment_mode == "separate"

    @model_validator(mode="after")
    def _shares_or_not(self) -> VerifierSettings:
        if self.environment_mode == "shared" and self.environment is not None:
            raise ValueError('[verifier.environment] takes environment_mode = "separate"')
        return self


class Artifact(_Table):
    """A file or folder that goes from the agent's sandbox to the verifier's."""

    source: AbsolutePath
    destination: str | None = None
    exclude: list[str] = []


def _artifact(given: object) -> object:
    return {"source": given} if isinstance(given, str) else given


class _Ours(_Table):
    """`[metadata.megaflow]`: what megaflow knows of a task beyond Harbor's format."""

    # Whether the task runs in any file system with a shell: then it needs no Dockerfile.
    needs_image: bool = True
    # Files that the verifier leaves, without which its verdict does not count.
    evidence: list[AbsolutePath] = []


class _Solution(_Table):
    env: dict[str, str] = {}


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    megaflow: _Ours = _Ours()


class _Task(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str | None = None


class TaskSettings(_Table):
    """All of `task.toml`."""

    version: str | None = None
    schema_version: str | None = None
    task: _Task = _Task()
    metadata: _Metadata = _Metadata()
    environment: EnvironmentSettings = EnvironmentSettings()
    agent: AgentSettings = AgentSettings()
    verifier: VerifierSettings = VerifierSettings()
    solution: _Solution = _Solution()
    artifacts: list[Annotated[Artifact, BeforeValidator(_artifact)]] = []
    source: str | None = None
    steps: list[dict[str, Any]] = []

    def lacking(self) -> Iterator[tuple[str, str]]:
        """What the task asks for and megaflow does not give: the key, and what to do about it."""
        if self.steps:
            yield "steps", "a task has one step here; split it into several tasks"
        for key, table in (
            ("environment", self.environment),
            ("verifier.environment", self.verifier.environment),
        ):
            if table is None:
                continue
            if table.os != "linux":
                yield f"{key}.os", 'sandboxes are "linux"'
            for name in ("gpus", "gpu_types", "tpu", "mcp_servers", "skills_dir", "healthcheck"):
                if getattr(table, name):
                    yield f"{key}.{name}", "sandboxes have none; leave it out"
        if self.verifier.collect:
            yield "verifier.collect", "name what the verifier needs in artifacts"
        for artifact in self.artifacts:
            if artifact.destination is not None or artifact.exclude:
                yield "artifacts", "destination and exclude are not to be had; name paths alone"
