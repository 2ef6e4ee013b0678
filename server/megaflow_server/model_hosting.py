"""The Model Service as a configuration asks for it."""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import AsyncExitStack

from megaflow.errors import InvalidArgument
from megaflow_server.config import Config, ServerConfig
from megaflow_server.gateway.served import MODELS
from megaflow_server.models.catalogue import made
from megaflow_server.models.service import ModelService

__all__ = ["about", "model_service", "withheld"]


async def model_service(
    config: Config, holders: Callable[[], Container[str]], stack: AsyncExitStack
) -> ModelService | None:
    """Runs until the stack ends; None where there are no models, or for the server's tasks alone.

    Args:
        holders: the principals that may have sessions.

    Raises:
        InvalidArgument: they are to be served and there are none, or one of them cannot be made.
    """
    server = config.server
    if not config.models:
        if server.serve is not None and MODELS in server.serve:
            raise InvalidArgument(
                "serve: models are to be served, and the configuration names none: add a table [models.NAME], or leave"
                " models out"
            )
        if server.trajectories is not None and server.store is None:
            raise InvalidArgument(
                f"trajectories={server.trajectories!r}: tasks and sessions of models are recorded there,"
                " and the configuration has neither: give store, or add a table [models.NAME]"
            )
        return None
    if not _served(server):
        return None
    recorder = None
    if server.trajectories is not None and server.http is None and server.store is None:
        raise InvalidArgument(
            f"trajectories={server.trajectories!r}: sessions of models are recorded there, which are opened over HTTP:"
            " say where, with --http host:port"
        )
    if server.trajectories is not None and server.http is not None:
        if "://" in server.trajectories.removeprefix("file://"):
            raise InvalidArgument(
                f"trajectories={server.trajectories!r}: give a folder of this machine; `megaflow export` and"
                " your own tools take what is there elsewhere"
            )
        # With numpy, without which a server starts in half the time.
        from megaflow_server.models.recording import Recorder
        from megaflow_server.trajectories import TrajectoryStore

        recorder = Recorder(TrajectoryStore(server.trajectories))
    service = ModelService(
        made(config.models),
        daily={
            name: tenant.budget.usd_per_day
            for name, tenant in config.tenants.items()
            if tenant.budget.usd_per_day is not None
        },
        rates={
            name: tenant.quota.model_calls_per_minute
            for name, tenant in config.tenants.items()
            if tenant.quota.model_calls_per_minute is not None
        },
        most=server.max_sessions,
        holders=holders,
        recorder=recorder,
    )
    return await stack.enter_async_context(service)


def _served(server: ServerConfig) -> bool:
    """Whether clients may call the models, or tasks alone, whose runners have their own."""
    if server.serve is None and server.http is None:
        return server.store is None
    return MODELS in server.served


def withheld(config: Config) -> frozenset[str]:
    """The variables with providers' keys, which are for models alone: no environment gets them."""
    return frozenset().union(*(table.secrets for table in config.models.values()))


def about(config: Config) -> list[str]:
    """What whoever starts the server is told."""
    if not config.models:
        return []
    names = ", ".join(f"{name} ({table.kind})" for name, table in config.models.items())
    if not _served(config.server):
        return [f"Models: {names}; for tasks."] if config.server.store is not None else []
    if config.server.http is None:
        return [f"Models: {names}."]
    kept = config.server.trajectories
    where = "are recorded nowhere" if kept is None else f"are recorded in {kept}"
    return [f"Models: {names}; their calls {where}."]
