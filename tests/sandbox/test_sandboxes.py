"""The shipped conformance suite over sandboxes made of processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from megaflow.sandbox import Sandbox
from megaflow.sandbox_proxy import SandboxProxy
from megaflow.testing.sandboxes import SandboxContract
from sandbox_host import SandboxHost

pytestmark = pytest.mark.requires("namespaces")


@pytest.fixture(scope="module")
def host() -> Iterator[SandboxHost]:
    host = SandboxHost()
    yield host
    host.close()


class TestProcess(SandboxContract):
    @pytest.fixture
    def sandbox(self, host: SandboxHost) -> Iterator[SandboxProxy]:
        self.host = host
        sandbox = host.make("process")
        yield sandbox
        host.destroy(sandbox)

    def kill(self, sandbox: Sandbox) -> None:
        self.host.kill(sandbox)
