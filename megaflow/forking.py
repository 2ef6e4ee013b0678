"""Several environments that go on from where one is."""

from __future__ import annotations

from megaflow.env_core import EnvCore
from megaflow.errors import InvalidArgument

__all__ = ["forked", "no_fork"]


async def forked(core: EnvCore, count: int) -> list[EnvCore]:
    """So many environments like one, each in a session of its own, that go on from where that one is.

    Raises what `EnvCore.snapshot` and opening a session do; none is left open then.
    """
    if type(count) is not int or count < 1:
        raise InvalidArgument(f"n={count!r}: takes a whole number from 1 on")
    snapshot = await core.snapshot()
    cores: list[EnvCore] = []
    try:
        for _ in range(count):
            cores.append(await core.another())
            await cores[-1].restore(snapshot)
    except BaseException:
        for one in cores:
            await one.close(wait=False)
        raise
    finally:
        await core.drop(snapshot)
    return cores


def no_fork(env: object) -> InvalidArgument:
    return InvalidArgument(
        f"env={env!r} is no single environment that was made on this client's server: fork what its make gave"
    )
