"""Who calls: the principal of a call, and which scope each method asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from megaflow.errors import Unauthenticated

# What a token may open.
SESSIONS = "sessions"  # open, step and close sessions; call models; the catalogue
READ = "read"  # the catalogue, and results
SUBMIT = "submit"  # tasks
RUN = "run"  # the execution of everybody's tasks
ADMIN = "admin"  # the server itself
ALL_SCOPES = frozenset({SESSIONS, READ, SUBMIT, RUN, ADMIN})
# What a token opens where nobody says more.
USER_SCOPES = ALL_SCOPES - {ADMIN, RUN}

# The scopes of which a caller needs one, for every method that the gateway serves but health's. What is not
# here is refused.
METHOD_SCOPES: Mapping[str, frozenset[str]] = {
    "/megaflow.v1.Gateway/Hello": ALL_SCOPES,
    "/megaflow.v1.Gateway/ListEnvironments": frozenset({SESSIONS, READ}),
    "/megaflow.v1.Gateway/OpenSession": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/ReopenShard": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/DescribeShard": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/RenewLeases": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/CloseSession": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/ListPools": frozenset({SESSIONS, READ}),
    "/megaflow.v1.Gateway/PreparePool": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/PrepareEnvironment": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/KeepSnapshot": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/RestoreSnapshot": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/DropSnapshot": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/ListSandboxes": frozenset({SESSIONS, ADMIN}),
    "/megaflow.v1.Gateway/KeepSandboxes": frozenset({SESSIONS}),
    "/megaflow.v1.Gateway/DropSandboxes": frozenset({SESSIONS, ADMIN}),
    "/megaflow.v1.Gateway/RunInside": frozenset({SESSIONS, ADMIN}),
    "/megaflow.v1.Gateway/OpenTerminal": frozenset({SESSIONS, ADMIN}),
    "/megaflow.v1.Gateway/PutInside": frozenset({SESSIONS, ADMIN}),
    "/megaflow.v1.Gateway/ListenInside": frozenset({SESSIONS, ADMIN}),
    "/megaflow.v1.Gateway/TakeConnection": frozenset({SESSIONS, ADMIN}),
    "/megaflow.v1.Sessions/Attach": frozenset({SESSIONS}),
    "/megaflow.v1.Tasks/CreateJob": frozenset({SUBMIT}),
    "/megaflow.v1.Tasks/AddTasks": frozenset({SUBMIT}),
    "/megaflow.v1.Tasks/SealJob": frozenset({SUBMIT}),
    "/megaflow.v1.Tasks/GetJob": frozenset({SUBMIT, READ}),
    "/megaflow.v1.Tasks/PutManifest": frozenset({SUBMIT}),
    "/megaflow.v1.Tasks/GetManifest": frozenset({SUBMIT, READ}),
    "/megaflow.v1.Tasks/ListJobs": frozenset({SUBMIT, READ}),
    "/megaflow.v1.Tasks/WaitResults": frozenset({SUBMIT, READ}),
    "/megaflow.v1.Tasks/CancelJob": frozenset({SUBMIT}),
    "/megaflow.v1.Tasks/CancelTask": frozenset({SUBMIT}),
    "/megaflow.v1.Tasks/ExplainTask": frozenset({SUBMIT, READ}),
    "/megaflow.v1.Models/ListModels": frozenset({SESSIONS, READ}),
    "/megaflow.v1.Models/Generate": frozenset({SESSIONS}),
    "/megaflow.v1.Runners/RegisterRunner": frozenset({RUN}),
    "/megaflow.v1.Runners/RenewRunner": frozenset({RUN}),
    "/megaflow.v1.Runners/ClaimAttempts": frozenset({RUN}),
    "/megaflow.v1.Runners/ReportAttempts": frozenset({RUN}),
    "/megaflow.v1.Runners/DrainRunner": frozenset({RUN}),
}


@dataclass(frozen=True)
class Principal:
    """Who a session, a quota and a token belong to: the tenant."""

    name: str
    scopes: frozenset[str]


# Whoever reaches a Unix socket of a server that this user started is this user.
LOCAL = Principal("local", ALL_SCOPES)

_principal: ContextVar[Principal] = ContextVar("principal")


def principal() -> Principal:
    """The authenticated caller of the running call. Raises Unauthenticated outside of one."""
    try:
        return _principal.get()
    except LookupError:
        raise Unauthenticated("this runs outside of an authenticated call") from None


@contextmanager
def acting_as(caller: Principal) -> Iterator[None]:
    """Makes `caller` the principal of what runs within."""
    token = _principal.set(caller)
    try:
        yield
    finally:
        _principal.reset(token)
