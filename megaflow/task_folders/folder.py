"""A task's folder, read and checked before anything of it runs."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow.sandbox_request import Phase, Reach, SandboxRequest
from megaflow.task_folders.context import BuildContext
from megaflow.task_folders.files import check_inside, read_text, walk
from megaflow.task_folders.lines import line_of_key
from megaflow.task_folders.settings import EnvironmentSettings, NetworkMode, TaskSettings

__all__ = ["TaskFolder", "find_tasks"]

# Where a task's commands begin where neither it nor its image says so.
_DIRECTORY = "/app"
_REPEATED = 100


@dataclass(frozen=True)
class TaskFolder:
    """A task in the format of Harbor and Terminal-Bench 2.

    Attributes:
        path: of the folder.
        settings: `task.toml`.
        instruction: `instruction.md`.
        context: `environment/`, where an image is built from it.
        verifier_context: `tests/`, where a separate verifier's image is built from it.
    """

    path: Path
    settings: TaskSettings
    instruction: str
    context: BuildContext | None
    verifier_context: BuildContext | None

    @classmethod
    def load(cls, path: Path | str) -> TaskFolder:
        """Read a folder.

        Raises:
            NotFound: there is none, or a file that it must have is missing; names it.
            InvalidArgument: a file is malformed, with the file and the line, or leads out of the folder.
            FailedPrecondition: the task asks for what megaflow cannot give, with the line.
        """
        path = Path(path)
        if not path.is_dir():
            raise NotFound(f"{path}: no such folder; a task is a folder with a task.toml")
        for _ in walk(path):
            pass
        settings = _settings(path / "task.toml")
        instruction = read_text(path / "instruction.md")
        _script(path / "tests" / "test.sh")
        if (path / "solution").exists():
            _script(path / "solution" / "solve.sh")
        context = _context(path, settings)
        verifier = settings.verifier
        own = (
            BuildContext(path / "tests")
            if verifier.is_separate
            and (path / "tests" / "Dockerfile").exists()
            and not (verifier.environment and verifier.environment.docker_image)
            else None
        )
        return cls(path, settings, instruction, context, own)

    @property
    def name(self) -> str:
        return self.settings.task.name or self.path.resolve().name

    @property
    def tests(self) -> Path:
        return self.path / "tests"

    @property
    def image(self) -> str | None:
        """What the agent's sandbox is made of; None where any file system will do."""
        built = None if self.context is None else self.context.image
        return self.settings.environment.docker_image or built

    @property
    def directory(self) -> str | None:
        """Where commands begin; None leaves it to the image."""
        given = self.settings.environment.workdir
        return given or (None if self.image else _DIRECTORY)

    @property
    def has_own_tests(self) -> bool:
        """Whether the separate verifier's image has the tests in it, so that they are not copied there."""
        environment = self.settings.verifier.environment
        return self.verifier_context is not None or bool(environment and environment.docker_image)

    def network(self) -> Mapping[Phase, Reach]:
        """What is reached in each phase."""
        base = self.settings.environment
        usual = _reach(base.mode, base.allowed_hosts)
        reaches: dict[Phase, Reach] = {"setup": usual}
        agent, verifier = self.settings.agent, self.settings.verifier
        reaches["agent"] = _phase(agent.network_mode, agent.allowed_hosts, usual)
        reaches["verifier"] = _phase(verifier.network_mode, verifier.allowed_hosts, usual)
        return reaches

    def request(self, template: str | None = None) -> SandboxRequest:
        """What the agent's sandbox must be like."""
        agent, verifier = self.settings.agent, self.settings.verifier
        network = dict(self.network())
        if verifier.is_separate:
            network["verifier"] = network["agent"]
        return replace(
            self._request(self.settings.environment, template),
            image=self.image,
            context=_folder_of(self.context),
            network=network,
            user=_named({"agent": agent.user, "verifier": verifier.user}),
        )

    def verifier_request(self, template: str | None = None) -> SandboxRequest | None:
        """What the verifier's own sandbox must be like; None where it shares the agent's."""
        verifier = self.settings.verifier
        if not verifier.is_separate:
            return None
        table = verifier.environment or self.settings.environment
        context = self.verifier_context or self.context
        image = table.docker_image or (self.image if context is None else context.image)
        reach = self.network()["verifier"]
        if verifier.network_mode is None and verifier.environment is not None:
            reach = _reach(table.mode, table.allowed_hosts)
        return replace(
            self._request(table, template),
            image=image,
            context=None if table.docker_image else _folder_of(context),
            network={"setup": reach, "agent": reach, "verifier": reach},
            user=_named({"verifier": verifier.user}),
        )

    def _request(self, table: EnvironmentSettings, template: str | None) -> SandboxRequest:
        return SandboxRequest(
            template=template,
            build_timeout=table.build_timeout_sec,
            directory=self.directory,
            folders=("/tests", "/logs", "/solution", "."),
            cpus=table.cpus,
            memory=table.memory_bytes,
            disk=table.storage_bytes,
            environ=table.env,
            evidence=tuple(self.settings.metadata.megaflow.evidence),
        )


def find_tasks(path: Path | str) -> Sequence[Path]:
    """The folders of tasks in a folder, or that folder itself where it is one; in order of their names.

    Raises:
        NotFound: there is none.
    """
    path = Path(path)
    if (path / "task.toml").exists():
        return [path]
    found = sorted(one.parent for one in path.glob("*/task.toml")) if path.is_dir() else []
    if not found:
        raise NotFound(f"{path}: no task there: a task is a folder with a task.toml")
    return found


def _folder_of(context: BuildContext | None) -> str | None:
    return None if context is None else str(context.folder.resolve())


def _named(users: Mapping[Phase, str | None]) -> Mapping[Phase, str]:
    return {phase: user for phase, user in users.items() if user is not None}


def _reach(mode: NetworkMode, hosts: Sequence[str]) -> Reach:
    if mode == "allowlist" and hosts:
        return tuple(hosts)
    return "public" if mode == "public" else "none"


def _phase(mode: NetworkMode | None, hosts: Sequence[str], usual: Reach) -> Reach:
    return usual if mode is None else _reach(mode, hosts)


def _context(path: Path, settings: TaskSettings) -> BuildContext | None:
    ours, named = settings.metadata.megaflow, settings.environment.docker_image
    dockerfile = path / "environment" / "Dockerfile"
    compose = [
        *path.glob("environment/docker-compose.y*ml"),
        *path.glob("tests/docker-compose.y*ml"),
    ]
    if compose:
        raise FailedPrecondition(f"{compose[0]}: a task has one container here; write a Dockerfile")
    if ours.needs_image:
        return None if named else BuildContext(dockerfile.parent)
    if named or dockerfile.exists():
        raise InvalidArgument(
            f"{path / 'task.toml'}:{_line(path, ('metadata', 'megaflow', 'needs_image'))}: needs_image = false, "
            f"and there is {'docker_image' if named else dockerfile}; leave one of them out"
        )
    return None


def _script(path: Path) -> None:
    text = read_text(path)
    check_inside(path, path.parent)
    for number, line in enumerate(text.split("\n"), 1):
        if line.endswith("\r"):
            raise InvalidArgument(
                f"{path}:{number}: the line ends with CR LF, which no shell takes; end lines with LF alone"
            )


def _line(path: Path, key: Sequence[str | int]) -> int:
    return line_of_key((path / "task.toml").read_text("utf-8"), key)


def _settings(path: Path) -> TaskSettings:
    text = read_text(path)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{path}:{_place(error, text)}: {error}") from None
    try:
        settings = TaskSettings.model_validate(found)
    except ValidationError as error:
        fault = error.errors()[0]
        where = [part for part in fault["loc"] if part not in ("function-before", "nullable")]
        message = _wrong(fault, where)
        raise InvalidArgument(f"{path}:{line_of_key(text, where)}: {message}") from None
    for key, way_out in settings.lacking():
        line = line_of_key(text, key.split("."))
        raise FailedPrecondition(f"{path}:{line}: {key}: {way_out}")
    return settings


def _place(error: tomllib.TOMLDecodeError, text: str) -> int:
    """The line of a fault: Python 3.14 has it as an attribute, all have it in the message."""
    said = str(error)
    if "(at line " in said:
        return int(said.rpartition("(at line ")[2].partition(",")[0])
    return len(text.splitlines()) or 1


def _wrong(fault: Mapping[str, Any], where: Sequence[str | int]) -> str:
    key = ".".join(str(part) for part in where)
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(where[-1]), _known(where), n=1)
        return f"unknown key {key}" + (f"; did you mean {close[0]!r}?" if close else "")
    given = repr(fault["input"])[:_REPEATED]
    why = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else fault["msg"]
    if isinstance(fault["input"], dict):
        return f"{key}: {why}"
    return f"{key} = {given}: {why}"


def _known(where: Sequence[str | int]) -> Sequence[str]:
    """The keys of the table that a key is in."""
    model: type[BaseModel] = TaskSettings
    for part in where[:-1]:
        field = model.model_fields.get(str(part))
        kinds = (
            [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        )
        tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not tables:
            return ()
        model = tables[0]
    return list(model.model_fields)
