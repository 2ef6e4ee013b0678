"""Rows of a SWE-bench-style data set: JSON lines with SWE-bench's field names."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from megaflow.errors import InvalidArgument, MegaflowError, NotFound
from megaflow_envs.swe.logs import PARSERS
from megaflow_envs.swe.patches import paths_of

__all__ = ["DIRECTORY", "Row", "listed_rows", "load_row", "load_rows"]

# Where SWE-bench's images have the repository.
DIRECTORY = "/testbed"
# SWE-bench's own images; no name of an image has two underscores in a row.
_IMAGE = "swebench/sweb.eval.x86_64.{}:latest"
_SHOWN = 100

# What runs the tests of a repository, to which the tests' files or modules are appended, and how its output is read.
_PYTEST = ("python -m pytest -rA --tb=short -p no:cacheprovider", "pytest")
_COMMANDS = {
    "django/django": (
        "./tests/runtests.py --verbosity 2 --settings=test_sqlite --parallel 1",
        "unittest",
    ),
}


def _tests(given: object) -> object:
    """A list of tests; SWE-bench's own files have it as text in JSON."""
    value = json.loads(given) if isinstance(given, str) else given
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("give a list of tests' names, or the JSON of one")
    return tuple(value)


def _commit(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", text):
        raise ValueError("give the 40 hexadecimal digits of a commit")
    return text


def _id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise ValueError("takes letters, digits, '_', '.' and '-'")
    return text


def _patch(text: str) -> str:
    paths_of(text)
    return text


def _parser(name: str) -> str:
    if name not in PARSERS:
        raise ValueError(f"takes one of {', '.join(PARSERS)}")
    return name


Tests = Annotated[tuple[str, ...], BeforeValidator(_tests)]
Patch = Annotated[str, AfterValidator(_patch)]


class Row(BaseModel):
    """A task; fields that are not named here are left aside, as data sets have many.

    The last five are not SWE-bench's: `image_name`, and `test_cmd` with `log_parser`, for a repository that is not
    known here; `needs_image = false` for a task that runs in any file system with git and what its
    tests take, with the repository at `base_commit` as a patch from nothing in `base_patch`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    instance_id: Annotated[str, AfterValidator(_id)]
    repo: str
    base_commit: Annotated[str, AfterValidator(_commit)]
    problem_statement: Annotated[str, Field(min_length=1)]
    test_patch: Patch
    FAIL_TO_PASS: Annotated[Tests, Field(min_length=1)]
    PASS_TO_PASS: Tests = ()
    patch: Patch | None = None
    image_name: str | None = None
    test_cmd: str | None = None
    log_parser: Annotated[str, AfterValidator(_parser)] | None = None
    needs_image: bool = True
    base_patch: Patch | None = None

    @property
    def image(self) -> str | None:
        """The image that the repository is in; None where it needs none."""
        if not self.needs_image:
            return None
        return self.image_name or _IMAGE.format(self.instance_id.lower().replace("__", "_1776_"))

    @property
    def runner(self) -> tuple[str, str]:
        """What runs the tests, and the name of the parser of its output."""
        command, parser = _COMMANDS.get(self.repo, _PYTEST)
        return self.test_cmd or command, self.log_parser or parser

    @property
    def directives(self) -> Sequence[str]:
        """What of the repository's tests is run: the files or modules that the test patch touches."""
        paths = [path for path in paths_of(self.test_patch) if path.endswith(".py")]
        if self.runner[1] == "pytest":
            return paths
        modules = [path.removesuffix(".py").replace("/", ".") for path in paths]
        return [
            one.removeprefix("tests.") if self.repo == "django/django" else one for one in modules
        ]


def load_rows(path: Path | str) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: a row is malformed; names the file, the line and the field.
    """
    for number, line in _lines(Path(path)):
        yield _row(Path(path), number, _object(Path(path), number, line))


def listed_rows(path: Path | str) -> Iterator[tuple[str, str, MegaflowError | None]]:
    """Each row's name, the digest of its line, and what is wrong with it.

    A row that has no name of its own is called by its line. Raises NotFound where there is no such file.
    """
    path = Path(path)
    names: set[str] = set()
    for number, line in _lines(path):
        name, error = f"line {number}", None
        try:
            found = _object(path, number, line)
            name = str(found.get("instance_id") or name)
            _row(path, number, found)
            if name in names:
                raise InvalidArgument(f"{path}:{number}: {name} is the name of an earlier row, too")
        except MegaflowError as wrong:
            error = wrong
        if name in names:
            name = f"{name} (line {number})"
        names.add(name)
        yield name, hashlib.sha256(line).hexdigest(), error


def load_row(path: Path | str, instance_id: str) -> Row:
    """The row of an id. Raises NotFound where there is none, with the nearest; see `load_rows`.

    Other rows that are malformed are passed over.
    """
    names = []
    for number, line in _lines(Path(path)):
        try:
            found = _object(Path(path), number, line)
        except InvalidArgument:
            continue
        name = found.get("instance_id")
        if name == instance_id:
            return _row(Path(path), number, found)
        names.append(str(name))
    close = difflib.get_close_matches(instance_id, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise NotFound(f"instance_id={instance_id!r}: {path} has {len(names)} others{hint}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise NotFound(f"{path}: no such file; give the path of a file of JSON lines") from None
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield number, line


def _object(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InvalidArgument(f"{path}:{number}: no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidArgument(f"{path}:{number}: {type(found).__name__}, where an object is due")
    return found


def _row(path: Path, number: int, found: Mapping[str, Any]) -> Row:
    try:
        row = Row.model_validate(found)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            close = difflib.get_close_matches(field, found, n=1, cutoff=0.8)
            hint = f"; did you mean it by {close[0]!r}?" if close else ""
            raise InvalidArgument(f"{path}:{number}: no {field}{hint}") from None
        why = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else fault["msg"]
        given = repr(fault["input"])[:_SHOWN]
        raise InvalidArgument(f"{path}:{number}: {field} = {given}: {why}") from None
    if row.needs_image and row.base_patch is not None:
        raise InvalidArgument(f"{path}:{number}: base_patch: takes needs_image = false beside it")
    if not row.needs_image and row.base_patch is None:
        raise InvalidArgument(f"{path}:{number}: needs_image = false takes a base_patch beside it")
    return row
