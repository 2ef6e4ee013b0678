"""What opens a session of models, as JSON."""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megaflow.calls import Allowance
from megaflow.errors import InvalidArgument
from megaflow.generation import Sampling

__all__ = ["SessionRequest", "read"]

_Name = Annotated[str, Field(min_length=1, max_length=256)]
# A session that nobody closes ends after a week, at the latest.
_LONGEST = 7 * 86_400


class SessionRequest(BaseModel):
    """The body of `POST /sessions`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # Whose calls these are; an attempt with a higher number supersedes. Stand in each record.
    rollout_id: _Name
    attempt: int = Field(default=0, ge=0)
    group_id: _Name | None = None
    # By role, the name of a model of the configuration.
    models: dict[_Name, _Name] = Field(min_length=1)
    # Which role answers to a name that is none of the session's. Default: policy, where there is one.
    default_role: str | None = None
    # Seconds.
    lifetime: float = Field(default=3600.0, gt=0, le=_LONGEST)
    # Laid under each request.
    sampling: Sampling = Sampling()
    # What its calls may take together.
    budget: Allowance = Allowance()

    @property
    def default(self) -> str | None:
        """`default_role`, or what it is where it was not given."""
        if "default_role" in self.model_fields_set:
            return self.default_role
        return "policy" if "policy" in self.models else None


def read(body: bytes) -> SessionRequest:
    """The request; InvalidArgument names the field that is wrong."""
    try:
        return SessionRequest.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        # A field that is misspelled is the reason why another is missing.
        first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
        where = ".".join(map(str, first["loc"])) or "body"
        if first["type"] == "extra_forbidden":
            known = SessionRequest.model_fields
            close = difflib.get_close_matches(where, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise InvalidArgument(f"{where}: unknown field; {hint}") from None
        says = "is missing" if first["type"] == "missing" else first["msg"]
        raise InvalidArgument(f"{where}: {says}") from None
