from __future__ import annotations

from collections.abc import Iterator

import pytest

from megaflow.sandbox_proxy import SandboxProxy
from sandbox_host import SandboxHost


@pytest.fixture(scope="module")
def host() -> Iterator[SandboxHost]:
    one = SandboxHost()
    yield one
    one.close()


@pytest.fixture
def sandbox(host: SandboxHost) -> Iterator[SandboxProxy]:
    one = host.make("process")
    yield one
    host.destroy(one)
