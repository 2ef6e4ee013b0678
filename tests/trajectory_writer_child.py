"""A process that writes trajectories until it is killed; it prints what it was told is written."""

from __future__ import annotations

import asyncio
import sys

from megaflow.trajectory import Event, Start
from megaflow_server.trajectories import TrajectoryStore


async def write(folder: str, name: str, store: TrajectoryStore) -> None:
    writer = store.writer(name)
    await writer.append(Start(attempt_id=name))
    for count in range(1, 1_000_000):
        await writer.append(Event(name="count", data=[count, "x" * (count * 37 % 3000)]))
        if count % 5 == 0:
            await writer.flush()
            sys.stdout.write(f"{name} {count}\n")
            sys.stdout.flush()


async def main(folder: str) -> None:
    store = TrajectoryStore(folder, durability="close")
    await asyncio.gather(*(write(folder, f"a{n}", store) for n in range(4)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
