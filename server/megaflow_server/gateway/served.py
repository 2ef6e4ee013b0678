"""What a server serves, and what whoever asks for something else is told."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from megaflow.errors import FailedPrecondition

__all__ = ["ENVIRONMENTS", "MODELS", "SERVICES", "check_served"]

ENVIRONMENTS: Final = "environments"
MODELS: Final = "models"
SERVICES: Final = (ENVIRONMENTS, MODELS)

# What a client says to a server whatever it is for: who it is, and what it holds.
_EVERYBODYS: Final = {"/megaflow.v1.Gateway/Hello", "/megaflow.v1.Gateway/RenewLeases"}


def check_served(method: str, served: Collection[str]) -> None:
    """Raises FailedPrecondition for a method that has to do with what this server does not serve.

    Args:
        method: as gRPC names it, `/package.Service/Method`.
    """
    wanted = MODELS if method.startswith("/megaflow.v1.Models/") else ENVIRONMENTS
    if wanted in served or method in _EVERYBODYS:
        return
    raise FailedPrecondition(
        f"this server serves {', '.join(sorted(served))} alone, and no {wanted}: name another with server=…, or have "
        f"this one started with --serve {','.join(SERVICES)}"
    )
