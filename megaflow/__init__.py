"""megaflow: environments, agents and models that run somewhere else, as if they were local."""

from __future__ import annotations

import os as _os
import sys as _sys
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

# Before anything imports gRPC, which reads these once. Forks: see transport/channels.py, which must not
# believe in a protection that was asked for too late. Verbosity: what goes wrong with a connection is told
# by our errors, not by lines on somebody's terminal.
if "grpc" not in _sys.modules:
    _os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
_os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from megaflow.errors import (
    DeadlineExceeded,
    EnvironmentFailed,
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SessionLost,
    Superseded,
    Unauthenticated,
    Unavailable,
)
from megaflow.imports import when_imported as _when_imported

if _TYPE_CHECKING:
    from megaflow.agent import Agent, AgentEnv, AgentTask
    from megaflow.async_client import AsyncClient
    from megaflow.async_env import AsyncRemoteEnv
    from megaflow.async_job import AsyncJob
    from megaflow.async_vector import AsyncRemoteVectorEnv
    from megaflow.catalogue import EnvironmentInfo
    from megaflow.client import Client
    from megaflow.env import RemoteEnv
    from megaflow.job import Job
    from megaflow.making import make, make_vec
    from megaflow.model import Model
    from megaflow.plugins import register_agent, register_model
    from megaflow.remote_model import AsyncRemoteModel, ModelInfo, RemoteModel
    from megaflow.sandbox import ExecResult, Sandbox, Shell
    from megaflow.task import (
        ActiveTask,
        Amount,
        Failure,
        JobStatus,
        Limits,
        Resources,
        Result,
        Task,
        TaskEvent,
        TaskStatus,
    )
    from megaflow.transport.credentials import Tls
    from megaflow.vector import RemoteVectorEnv

__all__ = [
    "ActiveTask",
    "Agent",
    "AgentEnv",
    "AgentTask",
    "Amount",
    "AsyncClient",
    "AsyncJob",
    "AsyncRemoteEnv",
    "AsyncRemoteModel",
    "AsyncRemoteVectorEnv",
    "Client",
    "DeadlineExceeded",
    "EnvironmentFailed",
    "EnvironmentInfo",
    "ExecResult",
    "FailedPrecondition",
    "Failure",
    "InvalidArgument",
    "Job",
    "JobStatus",
    "Limits",
    "MegaflowError",
    "Model",
    "ModelInfo",
    "NotFound",
    "PermissionDenied",
    "RemoteEnv",
    "RemoteModel",
    "RemoteVectorEnv",
    "ResourceExhausted",
    "Resources",
    "Result",
    "Sandbox",
    "SessionLost",
    "Shell",
    "Superseded",
    "Task",
    "TaskEvent",
    "TaskStatus",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "make",
    "make_vec",
    "register_agent",
    "register_model",
]

# Where the rest is, most of it over gymnasium and numpy: imported when it is first asked for, so that a gateway,
# which needs errors and the wire alone, starts without.
_HOMES = {
    "megaflow.agent": ("Agent", "AgentEnv", "AgentTask"),
    "megaflow.async_client": ("AsyncClient",),
    "megaflow.async_env": ("AsyncRemoteEnv",),
    "megaflow.async_job": ("AsyncJob",),
    "megaflow.async_vector": ("AsyncRemoteVectorEnv",),
    "megaflow.catalogue": ("EnvironmentInfo",),
    "megaflow.client": ("Client",),
    "megaflow.env": ("RemoteEnv",),
    "megaflow.job": ("Job",),
    "megaflow.making": ("make", "make_vec"),
    "megaflow.model": ("Model",),
    "megaflow.plugins": ("register_agent", "register_model"),
    "megaflow.remote_model": ("AsyncRemoteModel", "ModelInfo", "RemoteModel"),
    "megaflow.sandbox": ("ExecResult", "Sandbox", "Shell"),
    "megaflow.task": (
        "ActiveTask",
        "Amount",
        "Failure",
        "JobStatus",
        "Limits",
        "Resources",
        "Result",
        "Task",
        "TaskEvent",
        "TaskStatus",
    ),
    "megaflow.transport.credentials": ("Tls",),
    "megaflow.vector": ("RemoteVectorEnv",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(_import_module(_HOME_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    from megaflow.registration import register_remote, register_shipped

    register_remote()
    register_shipped()


_when_imported("gymnasium", _register)
