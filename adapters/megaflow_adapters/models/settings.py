"""Settings of models that speak HTTP."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from megaflow.errors import InvalidArgument

__all__ = ["Settings", "checked"]


class Settings(BaseModel):
    """Of one model; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Roots of the APIs, with /v1; several are replicas of one model.
    base_urls: tuple[str, ...] = Field(min_length=1)
    # The upstream's own name for the model.
    model: str
    # Where the key is: never written here. None: the upstream wants none.
    api_key_env: str | None = None
    api_key_file: Path | None = None
    # Newer models of OpenAI's refuse the older name.
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    # Connections over all replicas; a call under way is one.
    max_connections: int = Field(default=4096, ge=1)
    # Calls that one replica is given at once; others wait. None: the connections are the limit.
    max_per_replica: int | None = Field(default=None, ge=1)
    # Times that a call is asked before it fails; only while nothing of an answer was handed on.
    attempts: int = Field(default=4, ge=1)
    # Seconds: to connect; without a byte of an answer; for a call with all its attempts.
    connect_timeout: float = Field(default=10.0, gt=0)
    idle_timeout: float = Field(default=300.0, gt=0)
    total_timeout: float = Field(default=1800.0, gt=0)
    # Seconds for which a replica that failed is asked last.
    cooldown: float = Field(default=5.0, ge=0)
    # Seconds that calls wait while weights are updated, before they are told to come back.
    pause_wait: float = Field(default=30.0, ge=0)

    @field_validator("base_urls")
    @classmethod
    def _plain_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.username or parts.password:  # errors name the host, and logs may name the URL
                raise ValueError("a URL with a password in it; name a key by api_key_env")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is no http or https URL")
        return tuple(url.rstrip("/") for url in urls)

    def key(self) -> SecretStr | None:
        """The key, read now; InvalidArgument where it is named and not there."""
        if self.api_key_env is not None:
            if not (value := os.environ.get(self.api_key_env)):
                raise InvalidArgument(f"api_key_env: ${self.api_key_env} is not set")
            return SecretStr(value)
        if self.api_key_file is not None:
            try:
                return SecretStr(self.api_key_file.read_text().strip())
            except OSError as error:
                raise InvalidArgument(
                    f"api_key_file: {self.api_key_file}: {error.strerror}"
                ) from error
        return None


Table = TypeVar("Table", bound=BaseModel)


def checked(table: type[Table], raw: Mapping[str, Any]) -> Table:
    """What stands in a table; InvalidArgument names the first key that is wrong."""
    try:
        return table.model_validate(dict(raw))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        # A key that is misspelled is the reason why another is missing.
        first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(where, table.model_fields, n=1, cutoff=0.5)
            known = f"known are {', '.join(table.model_fields)}"
            says = f"unknown key; did you mean {close[0]}?" if close else f"unknown key; {known}"
        else:
            says = "is missing" if first["type"] == "missing" else first["msg"]
        raise InvalidArgument(f"{where}: {says}") from None
