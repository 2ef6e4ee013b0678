from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from attempt_rig import Rig
from megaflow.async_client import AsyncClient


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with AsyncClient("inline") as client:
        here = Rig(client, tmp_path)
        yield here
        await here.store.close()
