"""What a trajectory consists of: one class per kind of record, and their payloads.

A payload is a dict in the wire's value codec: a record's fields under their names, without those that have their
default. So observations, actions and infos come back as they were, numpy scalars and tuples included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Final, TypeAlias

from megaflow.errors import InvalidArgument

__all__ = [
    "KINDS",
    "End",
    "Event",
    "Failure",
    "ModelCall",
    "Record",
    "Reset",
    "Start",
    "Step",
    "Verdict",
    "decode",
    "encode",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """Attributes: time: seconds since the epoch; None is filled in by who writes."""

    kind: ClassVar[str]
    code: ClassVar[int]
    time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(_Timed):
    """What the attempt is; the first record.

    Attributes:
        attempt_id: unique; `attempt` counts a sample's attempts from 0, `fence` is the attempt's fencing token.
        group_id: what samples of one task share.
        models: the model of each role.
        instruction: what the task says, where it is a text.
        versions: of megaflow, the environment's package, the agent, by name.
        extra: what else the job's manifest says of this attempt; plain values.
    """

    kind = "start"
    code = 1
    attempt_id: str
    job_id: str | None = None
    task_id: str | None = None
    group_id: str | None = None
    sample: int = 0
    attempt: int = 0
    fence: int = 0
    env: str | None = None
    agent: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    instruction: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(_Timed):
    """An episode begins. `latency` is seconds that the environment took."""

    kind = "reset"
    code = 2
    observation: Any
    info: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    options: Mapping[str, Any] | None = None
    latency: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(_Timed):
    """One step of the environment, with the action that led to it.

    Attributes:
        reward: None is unscored; multi-agent environments have a dict.
        terminated, truncated: bool, or a dict of multi-agent environments.
        latency: seconds that the environment took.
        agent_info: what the agent said of its action.
    """

    kind = "step"
    code = 3
    action: Any
    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Mapping[str, Any] = field(default_factory=dict)
    latency: float | None = None
    agent_info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall(_Timed):
    """One call of a model; `call` is the call record as plain values, docs/trajectories.md names its fields."""

    kind = "model_call"
    code = 4
    call: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(_Timed):
    """Anything else worth knowing: a phase that began, a command in the sandbox, a note."""

    kind = "event"
    code = 5
    name: str
    data: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(_Timed):
    """Something went wrong.

    Attributes:
        failure: its kind, `phase` the attempt's phase, `reason` one sentence for people.
        valid: True where the result stands all the same: the agent's or the model's own failure.
        log_tail: the last lines of the log that tells more.
    """

    kind = "failure"
    code = 6
    failure: str
    phase: str
    reason: str
    valid: bool = False
    log_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(_Timed):
    """What the attempt was judged to be.

    Attributes:
        reward: the headline of `rewards`; None is unscored, which 0.0 is not.
        valid: False where no judgement could be made; then reward is None.
        evidence: what the judgement rests on.
    """

    kind = "verdict"
    code = 7
    reward: float | None
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    valid: bool = True
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class End(_Timed):
    """The attempt is over, and nothing follows; a file without is of an attempt that was cut off, or goes on."""

    kind = "end"
    code = 8
    status: str


Record: TypeAlias = Start | Reset | Step | ModelCall | Event | Failure | Verdict | End

KINDS: Final[dict[str, type[Record]]] = {
    each.kind: each for each in (Start, Reset, Step, ModelCall, Event, Failure, Verdict, End)
}
_BY_CODE: Final[dict[int, type[Record]]] = {each.code: each for each in KINDS.values()}


def _defaults(each: type[Record]) -> dict[str, Any]:
    """By field; a field without a default has MISSING."""
    return {
        one.name: one.default_factory() if one.default_factory is not MISSING else one.default
        for one in fields(each)
    }


_DEFAULTS: Final[dict[type[Any], dict[str, Any]]] = {
    each: _defaults(each) for each in KINDS.values()
}


def encode(record: Record) -> bytes:
    """The payload. Raises InvalidArgument, with its path, for a part that the wire's values lack."""
    body = {}
    for name, default in _DEFAULTS[type(record)].items():
        value = getattr(record, name)
        if type(value) is not type(default) or _differs(value, default):
            body[name] = value
    from megaflow.protocol import values

    return values.encode(body, path=record.kind)


def _differs(value: Any, default: Any) -> bool:
    # Arrays have no default, so what is compared here is plain.
    return bool(value != default)


def decode(code: int, payload: bytes) -> Record:
    """The record in a payload, which is not trusted.

    Raises:
        InvalidArgument: no kind has this code, or its payload is not one.
    """
    each = _BY_CODE.get(code)
    if each is None:
        raise InvalidArgument(f"a trajectory has no record of kind {code}; upgrade megaflow")
    from megaflow.protocol import values

    body = values.decode(payload, path=each.kind)
    defaults = _DEFAULTS[each]
    if type(body) is not dict:
        raise InvalidArgument(f"{each.kind}: a {type(body).__name__} where a dict should be")
    if unknown := body.keys() - defaults.keys():
        raise InvalidArgument(f"{each.kind}: unknown field {min(unknown, key=str)!r}")
    missing = [n for n, default in defaults.items() if default is MISSING and n not in body]
    if missing:
        raise InvalidArgument(f"{each.kind}: {missing[0]!r} is missing")
    return each(**body)
