"""Making a host from its description on the wire, and applying requests to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gymnasium.vector import AutoresetMode

from megaflow.errors import InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.protocol import values
from megaflow.protocol.slots import Slot
from megaflow.protocol.spaces import decode_space
from megaflow.sandbox_request import to_value
from megaflow_server.worker.hosts import Emit, EnvHost, Host, error_message
from megaflow_server.worker.makers import MakerResolver
from megaflow_server.worker.native_host import NativeHost
from megaflow_server.worker.shard.host import ShardOptions
from megaflow_server.worker.shard.making import make_shard
from megaflow_server.worker.shard.processes import make_process_shard

# Nothing has a longer name; looking for similar ones would take its time.
_LONGEST_NAME = 1000


def make_host(spec: pb.EnvironmentSpec, resolver: MakerResolver, *, first: int = 0) -> Host:
    """Makes the environments that the spec describes; `first` is the index of a shard's first one."""
    check_environment(spec)
    if spec.num_envs and spec.vectorization_mode == "sync":
        return _make_shard(spec, resolver, first)
    resolver.use_paths(spec.import_paths)
    if spec.num_envs:
        return NativeHost(resolver.vector_environment(spec.makers[0], spec.num_envs))
    return EnvHost(resolver.wrapped(spec.makers[0], spec.wrappers)())


def make_lent(
    spec: pb.EnvironmentSpec,
    resolver: MakerResolver,
    ask: Callable[[Sequence[pb.WantedSandbox]], pb.EnvironmentSpec],
    *,
    first: int = 0,
) -> Host:
    """The same with the sandboxes that they want: `ask` gives the description that has them."""
    opening, wanted = _opening(spec, resolver)
    return make_host(ask(wanted) if wanted else spec, opening, first=first)


def wanted_by(spec: pb.EnvironmentSpec, resolver: MakerResolver) -> list[pb.WantedSandbox]:
    """The sandboxes that the environments of a description want, of which none is made."""
    return _opening(spec, resolver)[1]


def _opening(
    spec: pb.EnvironmentSpec, resolver: MakerResolver
) -> tuple[MakerResolver, list[pb.WantedSandbox]]:
    check_environment(spec)
    resolver.use_paths(spec.import_paths)
    opening = resolver.opening()
    wanted = [
        pb.WantedSandbox(maker=index, parameter=parameter, request=values.encode(to_value(one)))
        for index, maker in enumerate(spec.makers)
        for parameter, one in opening.wanted(maker).items()
    ]
    return opening, wanted


def _make_shard(spec: pb.EnvironmentSpec, resolver: MakerResolver, first: int) -> Host:
    custom = spec.observation_mode == "custom"
    options = ShardOptions(
        first=first,
        observation_mode=spec.observation_mode,
        single_observation_space=decode_space(spec.single_observation_space) if custom else None,
    )
    if spec.parallel == "process":
        return make_process_shard(spec, resolver.origin, options)
    resolver.use_paths(spec.import_paths)
    resolved = {m.SerializeToString(): resolver.wrapped(m, spec.wrappers) for m in spec.makers}
    makers = list(spec.makers) * (spec.num_envs if len(spec.makers) == 1 else 1)
    return make_shard(
        [resolved[m.SerializeToString()] for m in makers],
        AutoresetMode(spec.autoreset_mode),
        options,
        threads=spec.parallel == "thread",
    )


def check_environment(spec: pb.EnvironmentSpec) -> None:
    """Raises InvalidArgument for a description that contradicts itself."""
    native = spec.vectorization_mode == "vector_entry_point"
    for maker in (*spec.makers, *spec.wrappers):
        longest = max(len(maker.id), len(maker.known_as))
        if longest > _LONGEST_NAME:
            raise InvalidArgument(
                f"environment: a name of {longest} characters, over {_LONGEST_NAME}"
            )
    if not spec.makers:
        raise InvalidArgument("environment.makers is empty: name what to make")
    if len(spec.makers) not in ((1,) if native else (1, max(spec.num_envs, 1))):
        raise InvalidArgument(
            f"environment.makers has {len(spec.makers)} entries for num_envs={spec.num_envs} and "
            f"vectorization_mode={spec.vectorization_mode!r}: give one for all, or (with 'sync') one for each"
        )
    _one_of("parallel", spec.parallel, ("", "none", "thread", "process"))
    if spec.parallel not in ("", "none") and (native or not spec.num_envs):
        raise InvalidArgument(
            f"environment.parallel={spec.parallel!r}: only a vector environment whose sub-environments are made "
            "one by one (vectorization_mode='sync') has them step side by side"
        )
    if spec.num_envs == 0:
        return
    _one_of("vectorization_mode", spec.vectorization_mode, ("sync", "vector_entry_point"))
    if native and spec.wrappers:
        raise InvalidArgument(
            "environment.wrappers: a vector class of the environment's own takes none; use "
            "vectorization_mode='sync'"
        )
    if not native:
        _one_of("autoreset_mode", spec.autoreset_mode, [mode.value for mode in AutoresetMode])
        _one_of("observation_mode", spec.observation_mode, ("same", "different", "custom"))


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidArgument(f"environment.{name}={value!r}: takes {', '.join(map(repr, known))}")


def apply(
    host: Host,
    request: pb.Request,
    send: Callable[[pb.Reply], None],
    slot: Slot | None = None,
) -> Exception | None:
    """Applies one request, and sends its reply in one part or more.

    Returns once the next request may be applied; parts may come later, and from other threads. The exception
    that the reply reports is returned as well, for whoever shares the process.

    Args:
        slot: takes large arrays of observations.
    """
    emit = Emit(request.sequence, send, slot)
    try:
        host.apply(request, emit)
    except Exception as error:  # whatever an environment's own code raises travels to its user
        emit(pb.Reply(last=True, error=error_message(error)))
        return error
    return None
