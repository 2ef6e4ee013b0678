"""Rollouts for training while things go wrong: how many a second, and whether all rewards and rows are right."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import megaflow
from megaflow.calls import Row
from megaflow.task import Result, Task
from megaflow_server.backends.descendants import descendants
from megaflow_server.bench import rollouts_world as world
from megaflow_server.bench.processes import serving

__all__ = ["Figures", "Plan", "check", "measure"]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        rollouts: under way at once.
        samples: that must have a reward, in all.
        group_size: of them in a group.
        faults: in which part of the attempts something goes wrong.
        kills: how often a worker and a runner are killed meanwhile, each.
    """

    rollouts: int = 2000
    samples: int = 10_000
    group_size: int = 8
    faults: float = 0.1
    kills: int = 3


@dataclass
class Figures:
    """What was measured, and what was wrong with it.

    Attributes:
        seconds: from the first task until the last row was read.
        rewarded: samples with a reward.
        spoilt: samples without one, by what failed; others took their places.
        false_zeros: rewards of 0 where it is 1.
        wrong_rewards: any other that is not what it must be.
        split_groups: groups that are short, or whose rows are not of one group.
        lost: samples that do not have exactly their one row.
        crossed: rows with tokens of another sample, or of none of the group's.
        masked: rows with a mask, log-prob or version that is not what it must be.
        killed: processes, by kind.
    """

    seconds: float = 0.0
    rewarded: int = 0
    spoilt: Counter[str] = field(default_factory=Counter)
    false_zeros: int = 0
    wrong_rewards: int = 0
    split_groups: int = 0
    lost: int = 0
    crossed: int = 0
    masked: int = 0
    killed: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Samples with a reward, a second."""
        return self.rewarded / self.seconds

    @property
    def wrong(self) -> int:
        """All that is not as it must be."""
        rewards = self.false_zeros + self.wrong_rewards
        return rewards + self.split_groups + self.lost + self.crossed + self.masked


def measure(plan: Plan, say: Callable[[str], None]) -> Figures:
    """Runs it, with a server, its workers and its runner on this machine."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="megaflow-bench-") as folder:
        arguments = ["--store", f"sqlite:///{Path(folder, 'tasks.db')}", "--import", world.__name__]
        arguments += ["--concurrency", str(plan.rollouts)]
        room = 2 * plan.rollouts  # while sessions of attempts that failed are taken down
        with (
            serving(*arguments, max_sessions=room) as (address, gateway),
            megaflow.Client(address) as client,
            _killing(plan, gateway, figures),
        ):
            _run(client, plan, figures, say)
    return figures


def _run(client: megaflow.Client, plan: Plan, figures: Figures, say: Callable[[str], None]) -> None:
    count = -(-plan.samples // plan.group_size)
    task = Task(world.ENVIRONMENT, world.AGENT, agent_kwargs={"faults": plan.faults})
    began = time.monotonic()
    rollouts = client.rollouts(
        repeat(task, count),
        models={"policy": world.MODEL},
        group_size=plan.group_size,
        ahead=-(-plan.rollouts // plan.group_size),
        spare=4 * plan.group_size,
    )
    with rollouts as groups:
        for done, group in enumerate(groups, 1):
            for one in group.spoilt:
                figures.spoilt[one.failure.kind if one.failure else one.state] += 1
            check(group.results, group.rows(), plan.group_size, figures)
            say(f"{done:,} of {count:,} groups, {figures.rewarded:,} samples with a reward")
    figures.seconds = time.monotonic() - began


def check(
    results: Sequence[Result], rows: Sequence[Row], group_size: int, figures: Figures
) -> None:
    """Counts a group, and what is wrong with it."""
    figures.rewarded += len(results)
    of_one = len({row.group_id for row in rows}) == 1
    figures.split_groups += not (of_one and len(results) == group_size)
    by_sample: dict[str, list[Row]] = {result.task_id: [] for result in results}
    for row in rows:
        if row.rollout_id in by_sample:
            by_sample[row.rollout_id].append(row)
        else:
            figures.crossed += 1
    for result in results:
        _check_sample(result, by_sample[result.task_id], figures)


def _check_sample(result: Result, rows: Sequence[Row], figures: Figures) -> None:
    wanted = world.expected(result.seed)
    if result.reward != wanted.reward:
        if result.reward == 0.0:
            figures.false_zeros += 1
        else:
            figures.wrong_rewards += 1
    figures.lost += len(rows) != 1
    for row in rows:
        figures.crossed += row.token_ids != wanted.token_ids
        stands = (row.loss_mask, row.logprobs, row.weight_versions)
        figures.masked += stands != (wanted.loss_mask, wanted.logprobs, wanted.weight_versions)


@contextmanager
def _killing(plan: Plan, gateway: int, figures: Figures) -> Iterator[None]:
    """Kills a worker and a runner each time that another part of the samples has its reward."""
    over = threading.Event()
    kinds = {"worker": "megaflow_server.worker", "runner": "megaflow_server runner"}

    def run() -> None:
        due = [
            (part * plan.samples // (2 * plan.kills + 1), kind)
            for part, kind in enumerate(sorted(kinds) * plan.kills, 1)
        ]
        while due and not over.wait(0.05):
            if figures.rewarded < due[0][0]:
                continue
            kind = due.pop(0)[1]
            found = [one for one in descendants(gateway) if kinds[kind] in _command(one)]
            if found:
                with suppress(ProcessLookupError):
                    os.kill(found[0], signal.SIGKILL)
                    figures.killed[kind] += 1

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _command(process: int) -> str:
    """Its command line; "" for one that has ended."""
    try:
        return Path("/proc", str(process), "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
