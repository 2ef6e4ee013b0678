"""What `import megaflow` gives, exactly, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import megaflow

NAMES = [
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


def test_all_is_exact() -> None:
    assert megaflow.__all__ == NAMES
    assert all(hasattr(megaflow, name) for name in NAMES)


def test_nothing_else_is_public() -> None:
    script = """
from __future__ import annotations
import types, megaflow
print(*sorted(
    name for name in dir(megaflow)
    if not name.startswith("_")
    and not isinstance(getattr(megaflow, name), types.ModuleType | type(annotations))
))
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert printed.stdout.split() == NAMES


def test_importing_starts_nothing_and_prints_nothing() -> None:
    script = """
import sys, threading
import megaflow, gymnasium
assert threading.active_count() == 1
assert "megaflow/Remote-v0" in gymnasium.registry
assert not [name for name in sys.modules if name.startswith("megaflow_server")]
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
