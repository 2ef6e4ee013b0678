"""What the two ends of a connection say of themselves: what they can, and what is installed where they run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from megaflow.protocol import PROTOCOL_VERSION
from megaflow.protocol import megaflow_pb2 as pb

FEATURES = ("vector", "chunks")

# The metadata by which a call shows its request's id.
REQUEST_KEY = "megaflow-request"
# The metadata by which a call shows whose task its request is for, percent-encoded, where that is not the caller's own.
TENANT_KEY = "megaflow-tenant"


def package_version(name: str) -> str:
    """The installed version of a distribution; empty for a source tree that is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def hello_request() -> pb.HelloRequest:
    return pb.HelloRequest(
        protocol_version=PROTOCOL_VERSION,
        features=FEATURES,
        megaflow_version=package_version("megaflow"),
        gymnasium_version=package_version("gymnasium"),
    )
