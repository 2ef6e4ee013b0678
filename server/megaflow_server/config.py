"""The server's configuration: `megaflow.toml`, and what the command line says instead."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from megaflow.errors import InvalidArgument
from megaflow_server.backend_tables import DockerTable
from megaflow_server.config_services import Service, models_alone
from megaflow_server.config_values import Memory
from megaflow_server.cpus import usable_cpus
from megaflow_server.faults import expected
from megaflow_server.gateway.served import ENVIRONMENTS, SERVICES
from megaflow_server.models.tables import ModelTable
from megaflow_server.template_tables import SandboxesTable, TemplateTable
from megaflow_server.templates import Template
from megaflow_server.tenant_tables import TenantConfig

# The shortest and the longest time that a client or a worker may be silent; seconds. A busy machine keeps anybody
# waiting for half a second, and no clock of a client's counts for ever.
_SHORTEST, _LONGEST = 1, 30 * 86400


def _silence(seconds: float) -> float:
    if not _SHORTEST <= seconds <= _LONGEST:
        raise ValueError(f"give seconds from {_SHORTEST} to {_LONGEST} (30 days)")
    return seconds


Silence = Annotated[float, AfterValidator(_silence)]


def _module(name: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError("give a module's name, such as package.module")
    return name


# The name of a module, as Python's `import` takes it.
Module = Annotated[str, AfterValidator(_module)]


# Characters of a value that an error repeats.
_MOST = 100


class ServerConfig(BaseModel):
    """The table `[server]`; most fields are options of `megaflow serve`, too."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # Addresses, host:port or unix:/path. Default: loopback, where neither tokens nor TLS have to be set up: the
    # server leaves a token of its own for the programs of its user.
    listen: list[str] = Field(["127.0.0.1:7447"], min_length=1)
    # What it is for: environments (and tasks, with a store), models, or both. Default: both, models where the
    # configuration has some; with a store and without `http` they are its tasks' alone. A server for models alone takes
    # no notice of what is said here of workers, sandboxes and tasks.
    serve: list[Service] | None = Field(None, min_length=1)
    # Whose tokens callers over TCP show; `megaflow tokens` writes it. Default: none, so loopback for the
    # programs of the server's own user alone.
    token_file: Path | None = Field(None, strict=False)
    # The certificate, with its issuers', and its key; PEM. Default: none, so loopback and Unix sockets alone.
    tls_cert: Path | None = Field(None, strict=False)
    tls_key: Path | None = Field(None, strict=False)
    # Whether other machines may connect without TLS. Default: no, since their tokens could be read on the way.
    insecure: bool = False
    # The name or address under which clients on other machines reach the workers on this one, who then take
    # free ports there, with TLS. Default: none, so the gateway relays to clients elsewhere.
    data_host: str | None = None
    # Processes that run environments, for each principal. Default: one per CPU that the server may use, since one
    # process steps its environments on one CPU at a time; `max_workers` at most.
    workers: PositiveInt = Field(default_factory=usable_cpus)
    # Workers of all principals together, since none is shared. Default: four times `workers`, so that
    # four principals can use all of theirs at once.
    max_workers: PositiveInt | None = None
    # Sessions that a worker hosts, one after the other or at once, before a fresh one takes its place.
    # Default: no limit, since an environment that leaks is the exception.
    max_sessions_per_worker: PositiveInt | None = None
    # What a worker takes with all its processes, as 512Mi or 4Gi, or in bytes. From 80 % of it on, it takes
    # no more sessions; over it, it is ended with those that it has. One without sessions takes about 70 MiB and
    # what `import` adds. Default: no limit.
    worker_memory_limit: Memory | None = None
    # Seconds without a sign of life after which a worker is ended with its sessions. Default: `lease`, so
    # as long as a client may be silent.
    heartbeat_timeout: Silence | None = None
    # Size at which a log file is begun anew, as 512Ki or 10Mi, or in bytes; its old end is kept beside it.
    # Default: enough for what an environment prints in a day, small for any disk.
    log_bytes: Memory = 10 << 20
    # Seconds that a session lives on when its client does not renew its lease. Default: long enough for a
    # network to fail and recover, short enough that what a dead client held is soon gone.
    lease: Silence = 60.0
    # Sessions of everybody together. Default: several times what one host steps at a useful rate.
    max_sessions: PositiveInt = 10_000
    # Sessions that are built at once. Default: enough for what waits for a disk or a network.
    max_building: PositiveInt = 64
    # How many more wait to be built before others are sent away. Default: a large job's, opened at once.
    max_waiting: NonNegativeInt = 4_096
    # Seconds that sessions get to end after SIGTERM. Default: less than the 30 that Kubernetes gives a pod.
    drain_grace: NonNegativeFloat = 25.0
    # What keeps tasks: sqlite:///PATH or postgresql://…. Default: none, so the server takes no tasks.
    store: str | None = None
    # Processes that execute these tasks, of this server's own; 0 where others do, with `megaflow runner`. Default: one
    # where there is a store, since tasks are submitted to be executed.
    runners: NonNegativeInt | None = None
    # Attempts at once, of each of its runners. Default: enough for environments that wait for models; tasks that say
    # what they request take fewer where there is no room.
    concurrency: PositiveInt = 64
    # Seconds that a step may take in the tasks that its runners execute, a verifier's included. Default: long enough
    # for the tests of a large repository, short enough that what hangs is told the same day.
    step_timeout: PositiveFloat = 3600.0
    # Where health, metrics and models are served over HTTP, host:port. Default: nowhere.
    http: str | None = None
    # Where its runners put trajectories, a folder or a URL, and the folder in which sessions of models are recorded.
    # Default: for runners `trajectories` beside an SQLite store, else in the user's state folder; of models none, so
    # they are not recorded.
    trajectories: Annotated[str, Field(min_length=1)] | None = None
    # What starts workers. Default: processes of this host, which need nothing else.
    backend: str = "process"
    # What workers are containers of: an image with megaflow in it. Default: none, so processes of this host.
    worker_image: Annotated[str, Field(min_length=1)] | None = None
    # Modules that each worker and each of its runners imports before it serves; they register environments, agents
    # and models. Default: none,
    # so gymnasium's own environments.
    modules: list[Module] = Field([], alias="import")
    # Whether clients may name modules to import ("module:Env-v0"). Default: no, since whoever may
    # do so runs code of their choice among what is installed.
    allow_import: bool = False

    @property
    def served(self) -> frozenset[str]:
        """Environments, models, or both."""
        return frozenset(SERVICES if self.serve is None else self.serve)


class Config(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # What `megaflow serve` does. Default: the table's own.
    server: ServerConfig = Field(default_factory=lambda: ServerConfig.model_validate({}))
    # What each tenant may have. Default: nobody has a limit of its own.
    tenants: dict[str, TenantConfig] = {}
    # The Docker Engine that containers run on. Default: the one of this host, and the strictest profile.
    docker: DockerTable = DockerTable()
    # What sessions' instances are made of. Default: what environments ask for, as processes of this host.
    templates: dict[str, TemplateTable] = {}
    # What environments may ask for that name no template. Default: the limits of the profile.
    sandboxes: SandboxesTable = SandboxesTable()
    # What answers calls of models. Default: nothing.
    models: dict[str, ModelTable] = {}

    def made_templates(self) -> dict[str, Template]:
        """The templates by their names. InvalidArgument for a name that is none."""
        return {name: table.template(name) for name, table in self.templates.items()}


def load(path: Path | None, options: Mapping[str, Any]) -> Config:
    """The configuration from a file, where there is one, with options laid over its table `[server]`.

    Args:
        options: by the names of the fields, and of their types; None and empty lists leave what the file
            says.

    Raises:
        InvalidArgument: names the file or the option, the key, its value and what is expected; every fault, a
            line each.
    """
    tables: dict[str, Any] = _read(path) if path is not None else {}
    try:
        config = Config.model_validate(tables)
    except ValidationError as error:
        raise InvalidArgument("\n".join(f"{path}: {line}" for line in _faults(error))) from None
    try:
        config.made_templates()
        config.docker.options()
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.message}") from None
    given = {
        _key(field): value for field, value in options.items() if value is not None and value != []
    }
    try:
        server = ServerConfig.model_validate({**tables.get("server", {}), **given})
    except ValidationError as error:  # the file's own faults were told above
        raise InvalidArgument("\n".join(map(_option_fault, error.errors()))) from None
    if ENVIRONMENTS not in server.served:
        server = models_alone(server, given)
    return config.model_copy(update={"server": _consistent(server)})


def _key(field: str) -> str:
    """What a field of `[server]` is called in a file; its option has the same name."""
    return ServerConfig.model_fields[field].alias or field


def _consistent(server: ServerConfig) -> ServerConfig:
    """Raises InvalidArgument where what was asked for cannot be had together."""
    if server.backend == "docker" and server.worker_image is None:
        raise InvalidArgument(
            "backend='docker': workers in containers need an image with megaflow in it: name one with --worker-image "
            "(server/deploy/Dockerfile makes one); for sandboxes in containers alone, leave the backend out and "
            "name docker in their templates"
        )
    most = server.max_workers
    if most is None or server.workers <= most:
        return server
    if "workers" in server.model_fields_set:
        raise InvalidArgument(
            f"workers={server.workers} is over max_workers={most}: each principal may have the first, and all "
            "together the second; lower --workers or raise --max-workers"
        )
    return server.model_copy(update={"workers": most})


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{path}: byte {error.start} is no UTF-8, which TOML is written in: save the file as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{path}: is no TOML: {error}") from error


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        location = fault["loc"]
        if fault["type"] == "extra_forbidden":
            yield f"{_dotted(location)}: unknown key{_nearest(location)}"
        elif fault["type"] == "missing":
            yield f"{_dotted(location)}: is missing"
        else:
            yield f"{_dotted(location)} = {_written(fault['input'])}: {expected(fault)}"


def _written(value: object) -> str:
    """A value about as the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    text = value.isoformat() if isinstance(value, date | time) else repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


def _option_fault(fault: Mapping[str, Any]) -> str:
    option = str(fault["loc"][0]).replace("_", "-")
    return f"--{option} {_written(fault['input'])}: {expected(fault)}"


def _dotted(location: Sequence[int | str]) -> str:
    """The name of a key, with the place in its list where it has one: server.listen[0]."""
    names = (f"[{one}]" if isinstance(one, int) else f".{one}" for one in location)
    return "".join(names).removeprefix(".")


def _nearest(location: Sequence[int | str]) -> str:
    """The known key that comes closest to an unknown one, as a half-sentence."""
    *tables, name = map(str, location)
    fields = _table(tables).model_fields
    known = {
        info.alias or field: ".".join([*tables, info.alias or field])
        for field, info in fields.items()
    }
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (
        f"; did you mean {known[close[0]]}?"
        if close
        else f"; known here: {', '.join(known.values())}"
    )


def _table(path: Sequence[str]) -> type[BaseModel]:
    """What the keys of a table are."""
    table: type[BaseModel] = Config
    names = iter(path)
    for name in names:
        found = table.model_fields[name].annotation
        if get_origin(found) is dict:  # of tables, each under a name of its own
            next(names)
            found = get_args(found)[1]
        if isinstance(found, UnionType):  # of a table and None
            found = get_args(found)[0]
        assert isinstance(found, type)
        table = found
    return table
