"""Trains CartPole in environments behind a server, and kills one of the server's workers meanwhile.

Sixty-four candidate policies are evaluated at once, one in each remote environment, and the next sixty-four
are drawn around the best of them (the cross-entropy method). Says the policy's mean return over 100 episodes, and
what remote steps cost. Then the tasks that megaflow ships go through the same server: the agent that knows each
one's solution must score 1, and the one that does nothing 0. Exit status 1 where either is not so, or the mean
return is below CartPole's threshold.

    python examples/demo.py
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import megaflow

NUM_ENVS = 64
GENERATIONS = 12
ELITE = 10
KILL_GENERATION, KILL_STEP = GENERATIONS // 2, 20
EPISODES = 100
REWARD_THRESHOLD = 475.0
TASKS = ("megaflow:terminal", "megaflow:swe")
SCORES = {"oracle": 1.0, "nop": 0.0}

MEGAFLOW = str(Path(sys.executable).with_name("megaflow"))

Floats: TypeAlias = npt.NDArray[np.float64]
Envs: TypeAlias = VectorEnv[Any, Any, Any]

COLUMNS = ("generation", MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
console = Console(highlight=False)


def main() -> int:
    with server() as (address, pid):
        console.print(f"A server with two workers, processes {worker_pids(pid)}, at {address}")
        envs = megaflow.make_vec("CartPole-v1", NUM_ENVS, server=address, on_lost="truncate")
        with closing(envs):
            policy, lost = train(envs, lambda: kill_worker(pid))
            console.print(f"{lost} environments were lost and replaced; training went on.")
            assert lost > 0, "killing a worker lost nothing"
            mean_return = evaluate(envs, policy)
        console.print(f"Mean return over {EPISODES} episodes: {mean_return:.1f}")
        options = ["--num-envs", str(NUM_ENVS), "--seconds", "0.5", "--repeats", "3"]
        command("bench", "vector", *options, "--server", address)
        right = [run_tasks(address, agent, score) for agent, score in SCORES.items()]
    return 0 if mean_return >= REWARD_THRESHOLD and all(right) else 1


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """A server with two workers, and a runner: its address and its process id. Ended on the way out."""
    with tempfile.TemporaryDirectory(prefix="megaflow-demo-") as folder, serving(folder) as process:
        try:
            assert process.stdout is not None
            yield address_in(process.stdout, Path(folder, "log")), process.pid
        finally:
            process.terminate()
            process.wait()


def serving(folder: str) -> subprocess.Popen[str]:
    serve = [MEGAFLOW, "serve", "--listen", "127.0.0.1:0", "--workers", "2"]
    serve += ["--store", f"sqlite:///{folder}/tasks.db", "--concurrency", "4"]
    with Path(folder, "log").open("w") as log:  # what it logs would come between live tables
        return subprocess.Popen(
            serve,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # So that Ctrl-C reaches this script alone, which then ends the server.
            start_new_session=True,
        )


def address_in(lines: Iterator[str], log: Path) -> str:
    """Where the server says that it serves, once it does."""
    for line in lines:
        if found := re.match(r"Serving environments at (\S+)", line):
            return found[1]
    raise SystemExit(f"the server ended before it served: {log.read_text()}")


def worker_pids(server_pid: int) -> list[int]:
    """The server's workers, among its child processes: another of these tidies up where the server is killed."""
    children = Path(f"/proc/{server_pid}/task/{server_pid}/children").read_text().split()
    return [
        int(pid) for pid in children if b"worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def kill_worker(server_pid: int) -> None:
    victim = worker_pids(server_pid)[0]
    os.kill(victim, signal.SIGKILL)
    console.print(f"SIGKILL to worker process {victim}, within generation {KILL_GENERATION}")


def run_tasks(address: str, agent: str, score: float) -> bool:
    """Runs every shipped task with an agent, and prints the report; whether each has the score."""
    datasets = [word for name in TASKS for word in ("--dataset", name)]
    at = ["--server", address]
    console.print(f"\nThe shipped tasks with the agent {agent!r}:")
    command("run", *datasets, "--agent", agent, "--name", agent, *at)
    command("report", agent, *at)
    with megaflow.Client(address) as client:
        return all(result.reward == score for result in client.job(agent).results())


def command(*arguments: str) -> None:
    """Runs `megaflow ARGUMENTS…`; it is ended where this script is."""
    process = subprocess.Popen([MEGAFLOW, *arguments])
    try:
        process.wait()
    finally:
        process.kill()
        process.wait()


@dataclass
class Round:
    """One episode of each policy."""

    returns: Floats
    steps: int  # of all environments together
    lost: int  # environments that were lost


def play(
    envs: Envs, policies: Floats, seed: int, interrupt: Callable[[], None] | None = None
) -> Round:
    """Plays an episode of each policy, a row of weights; `interrupt` is called in the middle of it."""
    returns, running = np.zeros(NUM_ENVS), np.ones(NUM_ENVS, dtype=np.bool_)
    steps = lost_envs = 0
    observations, _ = envs.reset(seed=seed)
    while running.any():
        if interrupt is not None and steps == KILL_STEP:
            interrupt()
        actions = (np.einsum("ij,ij->i", observations, policies) > 0).astype(np.int64)
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        steps += 1
        returns += rewards * running
        running &= ~(terminations | truncations)
        # What was lost with its worker is reset by itself: the policy plays again, from zero.
        lost = infos.get("lost", np.zeros(NUM_ENVS, dtype=np.bool_))
        returns[lost] = 0.0
        running |= lost
        lost_envs += int(lost.sum())
    return Round(returns, steps * NUM_ENVS, lost_envs)


def train(envs: Envs, interrupt: Callable[[], None]) -> tuple[Floats, int]:
    """The policy that was found, and how many environments were lost on the way."""
    rng = np.random.default_rng(0)
    mean, deviation, lost = np.zeros(4), np.ones(4), 0
    with Progress(*COLUMNS, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=GENERATIONS)
        for generation in range(1, GENERATIONS + 1):
            begin = time.perf_counter()
            policies = mean + deviation * rng.standard_normal((NUM_ENVS, 4))
            now = interrupt if generation == KILL_GENERATION else None
            played = play(envs, policies, seed=generation * NUM_ENVS, interrupt=now)
            elite = policies[np.argsort(played.returns)[-ELITE:]]
            mean, deviation = elite.mean(axis=0), elite.std(axis=0) + 0.1
            lost += played.lost
            speed = played.steps / (time.perf_counter() - begin)
            text = f"mean return {played.returns.mean():5.1f}, {speed:7,.0f} steps/s"
            bar.update(task, advance=1, description=text)
            if not console.is_terminal:
                console.print(f"generation {generation:2}/{GENERATIONS}: {text}")
    return mean, lost


def evaluate(envs: Envs, policy: Floats) -> float:
    """Mean return over 100 episodes with seeds of their own.

    Which episodes count is settled before they begin: the first ones to end would be the short ones.
    """
    policies = np.tile(policy, (NUM_ENVS, 1))
    seeds = range(1_000_000, 1_000_000 + EPISODES, NUM_ENVS)
    returns = np.concatenate([play(envs, policies, seed).returns for seed in seeds])
    return float(returns[:EPISODES].mean())


if __name__ == "__main__":
    # As Ctrl-C: the server is ended first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("Stopped.")
        sys.exit(130)
