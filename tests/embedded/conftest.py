"""Each test gets a place of its own, and leaves nothing there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from leftovers import Place, place


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as one:
        yield one
