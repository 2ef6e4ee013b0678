"""What a gateway allows: how many sessions, for how long, and how long building one may take."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

from megaflow.errors import InvalidArgument
from megaflow_server.gateway.leases import LEASE
from megaflow_server.gateway.limits import Quota
from megaflow_server.templates import Mode

# Building environments, where the client does not say: loading a simulator or a data set may take minutes.
ENV_START_TIMEOUT = 600.0


@dataclass(frozen=True)
class SessionSettings:
    """What a gateway allows.

    Attributes:
        lease: seconds that a session lives on when nobody renews it.
        max_sessions: of everybody together.
        max_building: how many sessions are built at once.
        max_waiting: how many more wait for that.
        quotas: by principal; who is not named has no limits but these.
    """

    lease: float = LEASE
    max_sessions: int = 10_000
    max_building: int = 64
    max_waiting: int = 4_096
    quotas: Mapping[str, Quota] = field(default_factory=dict)


def env_start(seconds: float) -> float:
    """What a request says of how long building may take. Raises InvalidArgument."""
    if math.isnan(seconds) or seconds < 0:
        raise InvalidArgument(
            f"env_start_timeout_s={seconds}: give seconds above 0, or 0 for this server's "
            f"{ENV_START_TIMEOUT:g}"
        )
    return seconds or ENV_START_TIMEOUT


def mode_of(asked: str) -> Mode:
    """What a request says of how its sandboxes are used. Raises InvalidArgument."""
    for mode in typing.get_args(Mode):
        if mode == (asked or "auto"):
            return typing.cast("Mode", mode)
    raise InvalidArgument(f"mode={asked!r}: choose among {', '.join(typing.get_args(Mode))}")
