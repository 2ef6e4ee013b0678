"""`megaflow bench`: how fast megaflow is on this machine, beside what one would use without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, Protocol, TypeVar

import typer
from rich.console import Console
from rich.live import Live

from megaflow.errors import MegaflowError
from megaflow_server.bench import (
    comparison_report,
    latency_report,
    overload_report,
    pool_report,
    sandbox_report,
    sessions_report,
)
from megaflow_server.bench import latency as latency_bench
from megaflow_server.bench import native as native_bench
from megaflow_server.bench import overload as overload_bench
from megaflow_server.bench import pixels as pixels_bench
from megaflow_server.bench import pool as pool_bench
from megaflow_server.bench import sandbox as sandbox_bench
from megaflow_server.bench import sessions as sessions_bench
from megaflow_server.bench import straggler as straggler_bench
from megaflow_server.bench import vector as vector_bench
from megaflow_server.bench.comparison import Comparison
from megaflow_server.bench.machine import this_machine
from megaflow_server.cli.errors import INTERRUPTED, NO, USAGE, exit_status, fail

T = TypeVar("T")
Environment = Annotated[str, typer.Option(help="The environment's id.")]
Server = Annotated[
    str | None,
    typer.Option(metavar="ADDR", help="host:port or unix:/path; else an embedded server."),
]
NumEnvs = Annotated[str, typer.Option(help="How many sub-environments; several with commas.")]
Seconds = Annotated[float, typer.Option(min=0.01, help="Length of one measurement.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measurements of each contender.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with every measurement.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _bench() -> None:
    """Measures megaflow on this machine."""


def _sizes(text: str, option: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise typer.BadParameter(
            f"{text!r}: give whole numbers from 1, with commas, such as 1,8,64",
            param_hint=option,
        )
    return sizes


@app.command()
def vector(
    env: Environment = "CartPole-v1",
    num_envs: NumEnvs = "1,8,64,256",
    seconds: Seconds = 1.0,
    repeats: Repeats = 5,
    server: Server = None,
    compute_ms: Annotated[
        float,
        typer.Option(min=0.0, help="What a step computes besides, in ms on a core of its own."),
    ] = 0.0,
    as_json_: Json = False,
) -> None:
    """Steps per second of a remote vector environment, beside gymnasium's SyncVectorEnv and AsyncVectorEnv."""
    sizes = _sizes(num_envs, "--num-envs")
    plan = vector_bench.Plan(env, sizes, seconds, repeats, server, compute_ms)
    _compare(vector_bench, plan, as_json_)


@app.command()
def native(
    env: Environment = "CartPole-v1",
    num_envs: NumEnvs = "1024,16384",
    seconds: Seconds = 1.0,
    repeats: Repeats = 5,
    server: Server = None,
    as_json_: Json = False,
) -> None:
    """Steps per second of an environment's own vector class, remote and called as it is."""
    sizes = _sizes(num_envs, "--num-envs")
    plan = native_bench.Plan(env, sizes, seconds, repeats, server)
    _compare(native_bench, plan, as_json_)


@app.command()
def pixels(
    num_envs: NumEnvs = "64",
    seconds: Seconds = 1.0,
    repeats: Repeats = 5,
    server: Server = None,
    as_json_: Json = False,
) -> None:
    """Steps per second with observations of 84 × 84 × 4 bytes, beside SyncVectorEnv and AsyncVectorEnv."""
    plan = pixels_bench.Plan(_sizes(num_envs, "--num-envs"), seconds, repeats, server)
    _compare(pixels_bench, plan, as_json_)


@app.command()
def straggler(
    num_envs: Annotated[int, typer.Option(min=1, help="How many sub-environments.")] = 64,
    min_envs: Annotated[int, typer.Option(min=1, help="How many of them recv waits for.")] = 48,
    seconds: Seconds = 5.0,
    repeats: Repeats = 3,
    server: Server = None,
    as_json_: Json = False,
) -> None:
    """Samples per second where one step in 20 takes 50 times as long: waiting for all, and for the first."""
    if min_envs > num_envs:
        raise typer.BadParameter(f"{min_envs} of {num_envs}", param_hint="--min-envs")
    plan = straggler_bench.Plan(num_envs, min_envs, seconds=seconds, repeats=repeats, server=server)
    _compare(straggler_bench, plan, as_json_)


@app.command()
def latency(
    env: Environment = "CartPole-v1",
    seconds: Seconds = 1.0,
    repeats: Repeats = 5,
    idle: Annotated[
        float, typer.Option(min=0.01, help="How long an idle connection is watched; seconds.")
    ] = 5.0,
    server: Server = None,
    as_json_: Json = False,
) -> None:
    """Round trips to one environment, beside bare echoes of the same bytes; what a connection takes of a core."""
    plan = latency_bench.Plan(env, idle=idle, seconds=seconds, repeats=repeats, server=server)
    machine = this_machine()
    with _progress() as say:
        result = latency_bench.measure(plan, say)
    _show(as_json_, latency_report, plan, machine, result)


@app.command()
def sessions(
    env: Environment = "CartPole-v1",
    sizes: Annotated[
        str, typer.Option("--sessions", help="How many at once; several with commas.")
    ] = "100,1000,2000",
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each is stepped.")] = 10.0,
    interval: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds between two steps of a session; 0: at once."),
    ] = 2.0,
    server: Server = None,
    as_json_: Json = False,
) -> None:
    """How long a step takes with many sessions on one server, and what memory a session takes."""
    plan = sessions_bench.Plan(env, _sizes(sizes, "--sessions"), seconds, interval, server)
    machine = this_machine()
    with _progress() as say:
        loads = asyncio.run(_all(sessions_bench.measure(plan, say)))
    _show(as_json_, sessions_report, plan, machine, loads)


@app.command()
def overload(
    env: Environment = "CartPole-v1",
    sessions: Annotated[int, typer.Option(min=1, help="How many the server takes.")] = 200,
    interval: Annotated[
        float, typer.Option(min=0.0, help="Seconds between two steps of a session.")
    ] = 1.0,
    askers: Annotated[
        str,
        typer.Option(
            help="Clients that are turned away and come back as told; several with commas."
        ),
    ] = "32,300,1000",
    rates: Annotated[
        str,
        typer.Option(help="Askings a second of clients that do not listen; several with commas."),
    ] = "100,300,600",
    seconds: Seconds = 8.0,
    repeats: Repeats = 3,
    as_json_: Json = False,
) -> None:
    """A full server: what those that it turns away cost those that it has admitted, and how soon they know."""
    plan = overload_bench.Plan(
        env,
        sessions,
        interval,
        _sizes(askers, "--askers"),
        _sizes(rates, "--rates"),
        seconds,
        repeats,
    )
    machine = this_machine()
    with _progress() as say:
        loads = overload_bench.measure(plan, say)
    _show(as_json_, overload_report, plan, machine, loads)


@app.command()
def orchestrator(
    sizes: Annotated[
        str, typer.Option("--tasks", help="How many sleep at once; several with commas.")
    ] = "100,10000",
    sleep: Annotated[float, typer.Option("--task-seconds", min=0.1, help="For how long.")] = 300.0,
    queued: Annotated[int, typer.Option(min=0, help="How many wait behind them.")] = 100_000,
    rate_tasks: Annotated[
        int, typer.Option(min=0, help="Tasks of 0 s, for the completions per second.")
    ] = 20_000,
    runners: Annotated[int, typer.Option(min=1, help="How many runners share them.")] = 20,
    tenants: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many share the tasks of 0 s the second time, by weights and quotas; 1: no second time.",
        ),
    ] = 20,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="sqlite:///PATH or postgresql://…; else SQLite, for the moment."
        ),
    ] = None,
    as_json_: Json = False,
) -> None:
    """What scheduling adds to tasks that sleep, very many of them at once."""
    try:  # its store is no part of the base install
        from megaflow_server.bench import orchestrator as bench
        from megaflow_server.bench import orchestrator_report as report
    except ImportError as error:
        fail(f"this needs {error.name}: pip install 'megaflow[server]'", USAGE)
    plan = bench.Plan(_sizes(sizes, "--tasks"), sleep, queued, rate_tasks, runners, tenants, store)
    machine = this_machine()
    with _progress() as say:
        loads = asyncio.run(_all(bench.measure(plan, say)))
    _show(as_json_, report, plan, machine, loads)


def _backends(text: str) -> list[str]:
    """The value of --backends."""
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - sandbox_bench.PLAIN.keys()):
        known = ", ".join(sandbox_bench.PLAIN)
        raise typer.BadParameter(f"{unknown[0]!r}: give {known}", param_hint="--backends")
    return chosen


@app.command()
def sandbox(
    backends: Annotated[
        str, typer.Option(help="Whose sandboxes; several with commas.")
    ] = "docker,process",
    image: Annotated[
        str, typer.Option(help="What containers are made of: any image with a shell.")
    ] = "busybox:stable",
    commands: Annotated[int, typer.Option(min=1, help="How many of each kind.")] = 200,
    as_json_: Json = False,
) -> None:
    """What a command in a sandbox takes, beside an exec of the engine and a process of one's own."""
    plan = sandbox_bench.Plan(_backends(backends), image, commands)
    machine = this_machine()
    try:
        with _progress() as say:
            costs = asyncio.run(_all(sandbox_bench.measure(plan, say)))
    except MegaflowError as error:
        fail(error.message, exit_status(error))
    _show(as_json_, sandbox_report, plan, machine, costs)


@app.command()
def pool(
    backends: Annotated[
        str, typer.Option(help="Whose sandboxes; several with commas.")
    ] = "docker,process",
    image: Annotated[
        str, typer.Option(help="What containers are made of: any with a shell.")
    ] = pool_bench.Plan.image,
    claims: Annotated[int, typer.Option(min=1, help="Claims of each kind.")] = 40,
    at_once: Annotated[int, typer.Option(min=1, help="Claims at once.")] = 40,
    size: Annotated[int, typer.Option(min=1, help="The most that there are of them then.")] = 8,
    as_json_: Json = False,
) -> None:
    """What a claim of a sandbox takes: of one that waits, of one that has to be made, and of many at once."""
    plan = pool_bench.Plan(_backends(backends), image, claims, at_once, size)
    machine = this_machine()
    try:
        with _progress() as say:
            results = asyncio.run(_all(pool_bench.measure(plan, say)))
    except MegaflowError as error:
        fail(error.message, exit_status(error))
    _show(as_json_, pool_report, plan, machine, results)


@app.command()
def gateway(
    rollouts: Annotated[int, typer.Option(min=1, help="How many have a session.")] = 2000,
    rate: Annotated[float, typer.Option(min=1.0, help="Calls a second, of all of them.")] = 200.0,
    seconds: Seconds = 20.0,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for streams.")] = False,
    as_json_: Json = False,
) -> None:
    """What the gateway for models adds to a call of a model that takes 50 ms, and whether it loses any."""
    try:
        bench = import_module("megaflow_server.bench.gateway")
        report = import_module("megaflow_server.bench.gateway_report")
    except ImportError as error:
        fail(f"{error.name} is missing: pip install 'megaflow[server]'", USAGE)
    plan = bench.Plan(rollouts=rollouts, rate=rate, seconds=seconds, stream=stream)
    machine = this_machine()
    with _progress() as say:
        figures = bench.measure(plan, say)
    _show(as_json_, report, plan, machine, figures)


@app.command()
def runner(
    attempts: Annotated[int, typer.Option(min=1, help="That wait at once.")] = 2000,
    steps: Annotated[int, typer.Option(min=10, help="Of one attempt, alone.")] = 2000,
    env: Environment = "CartPole-v1",
    as_json_: Json = False,
) -> None:
    """What a runner adds to a step, and what an attempt that waits takes of its memory."""
    bench = import_module("megaflow_server.bench.runner")
    report = import_module("megaflow_server.bench.runner_report")
    plan = bench.Plan(attempts=attempts, steps=steps, env=env)
    machine = this_machine()
    with _progress() as say:
        figures = bench.measure(plan, say)
    _show(as_json_, report, plan, machine, figures)


@app.command()
def rollouts(
    rollouts: Annotated[int, typer.Option(min=8, help="How many are under way at once.")] = 2000,
    samples: Annotated[int, typer.Option(min=8, help="That must have a reward.")] = 10_000,
    faults: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="In which part of the attempts something fails.")
    ] = 0.1,
    kills: Annotated[
        int, typer.Option(min=0, help="How often a worker and a runner are killed, each.")
    ] = 3,
    as_json_: Json = False,
) -> None:
    """Rollouts for training, while things go wrong: how many a second, and whether rewards and rows are right."""
    try:
        bench = import_module("megaflow_server.bench.rollouts")
        report = import_module("megaflow_server.bench.rollouts_report")
    except ImportError as error:
        fail(f"{error.name} is missing: pip install 'megaflow[server]'", USAGE)
    plan = bench.Plan(rollouts=rollouts, samples=samples, faults=faults, kills=kills)
    machine = this_machine()
    with _progress() as say:
        figures = bench.measure(plan, say)
    _show(as_json_, report, plan, machine, figures)
    if figures.wrong:
        raise typer.Exit(NO)


class _Bench(Protocol):
    """The modules of benchmarks that compare."""

    def sheet(self, plan: Any) -> comparison_report.Sheet: ...

    def measure(self, plan: Any, say: Callable[[str], None]) -> Iterator[Comparison]: ...


def _compare(bench: _Bench, plan: object, as_json: bool) -> None:
    machine = this_machine()
    with _progress() as say:
        comparisons = list(bench.measure(plan, say))
    _show(as_json, comparison_report, bench.sheet(plan), plan, machine, comparisons)


def _show(as_json: bool, report: ModuleType, *results: Any) -> None:
    if as_json:
        typer.echo(json.dumps(report.as_json(*results), indent=2))
    else:
        Console().print(report.as_table(*results))


async def _all(results: AsyncIterator[T]) -> list[T]:
    return [one async for one in results]


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    # Redrawn between measurements alone: a thread that animates it would be measured too.
    try:
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            yield lambda text: live.update(text, refresh=True)
    except KeyboardInterrupt:
        fail("interrupted before everything was measured", INTERRUPTED)
