"""Job files: what is to be run, as TOML or YAML. Options of `megaflow run` win over what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from megaflow import Amount, Limits, Resources, Task
from megaflow.errors import InvalidArgument
from megaflow_server.config_values import Memory
from megaflow_server.jobs.checking import checked
from megaflow_server.jobs.documents import read_toml, read_yaml

__all__ = ["DatasetTable", "JobFile", "TaskTable", "is_job_file", "load_job_file"]

Seconds = Annotated[PositiveFloat, AllowInfNan(False)]
Text = Annotated[str, Field(min_length=1)]
# Characters of a name: it is in reports and in files' names.
_LONGEST_NAME = 150
_TOML, _YAML = (".toml",), (".yaml", ".yml")


def _name(text: str) -> str:
    if not text.isprintable() or not 0 < len(text) <= _LONGEST_NAME or ".." in text.split("/"):
        raise ValueError(f"give 1 to {_LONGEST_NAME} printable characters on one line")
    return text


Name = Annotated[str, AfterValidator(_name)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LimitsTable(_Table):
    """`limits`: see `megaflow.Limits`."""

    schedule_to_start: Seconds | None = None
    start_to_close: Seconds | None = None
    schedule_to_close: Seconds | None = None

    def made(self) -> Limits:
        return Limits(self.schedule_to_start, self.start_to_close, self.schedule_to_close)


class AmountTable(_Table):
    """Cores, and bytes as a number or as 512Mi."""

    cpu: Annotated[NonNegativeFloat, AllowInfNan(False)] = 0.0
    memory: Memory = 0

    def made(self) -> Amount:
        return Amount(self.cpu, self.memory)


class ResourcesTable(_Table):
    """`resources`: see `megaflow.Resources`."""

    requests: AmountTable = AmountTable()
    limits: AmountTable = AmountTable()

    def made(self) -> Resources:
        return Resources(self.requests.made(), self.limits.made())


class _Common(_Table):
    """What a job says for all of its tasks, and a task for itself."""

    agent: Text | None = None
    agent_kwargs: dict[str, Any] = {}
    models: dict[str, Text] = {}
    limits: LimitsTable = LimitsTable()
    resources: ResourcesTable = ResourcesTable()
    priority: int = 0
    mode: Literal["auto", "ephemeral", "persistent"] = "auto"
    keep: Literal["none", "failed", "all"] = "none"
    snapshot: bool = False


class TaskTable(_Common):
    """A table of `[[tasks]]`, or a line of a file of tasks."""

    env: Text
    name: Name | None = None
    env_kwargs: dict[str, Any] = {}
    seed: NonNegativeInt | None = None
    group: Name | None = None

    def made(self, agent: str) -> Task:
        return Task(
            self.env,
            agent,
            models=self.models,
            env_kwargs=self.env_kwargs,
            agent_kwargs=self.agent_kwargs,
            seed=self.seed,
            limits=self.limits.made(),
            resources=self.resources.made(),
            priority=self.priority,
            group=self.group,
            mode=self.mode,
            keep=self.keep,
            snapshot=self.snapshot,
        )


class DatasetTable(_Table):
    """A table of `[[datasets]]`: a folder or file, and what its environments are given besides."""

    path: Text
    env_kwargs: dict[str, Any] = {}


class JobFile(_Common):
    """All of a job file."""

    name: Name | None = None
    samples: PositiveInt | None = None
    concurrency: PositiveInt | None = None
    seed: NonNegativeInt | None = None
    server: Text | None = None
    # USD of calls of models, and whether those without a price may be called all the same.
    max_cost: Annotated[PositiveFloat, AllowInfNan(False)] | None = None
    unpriced: bool = False
    datasets: list[DatasetTable] = []
    tasks: list[TaskTable] = []


def is_job_file(path: Path) -> bool:
    """Whether a path is that of a job file, by its name."""
    return path.suffix in (*_TOML, *_YAML)


def load_job_file(path: Path) -> JobFile:
    """Read one.

    Raises:
        NotFound, InvalidArgument: names the file and, where something is wrong in it, the line and the key.
    """
    from megaflow.task_folders.files import read_text

    text = read_text(path)
    found, line = read_toml(path, text) if path.suffix in _TOML else read_yaml(path, text)
    job = checked(JobFile, found, lambda where: f"{path}:{line(where)}")
    if not job.datasets and not job.tasks:
        raise InvalidArgument(
            f"{path}:1: no [[datasets]] and no [[tasks]]: there is nothing to run"
        )
    return job
