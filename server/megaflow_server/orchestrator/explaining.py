"""What a task waits for, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from megaflow_server.orchestrator.packing import takes
from megaflow_server.orchestrator.records import (
    ACTIVE,
    TERMINAL,
    Peak,
    Resources,
    Runner,
    RunnerState,
    Task,
    TaskState,
    Tenant,
)
from megaflow_server.orchestrator.scheduler import standing
from megaflow_server.orchestrator.store.base import Store

__all__ = ["waits_for"]


def waits_for(
    store: Store,
    task: Task,
    now: float,
    breakers: Mapping[str, str] = MappingProxyType({}),
    held: str | None = None,
) -> list[str]:
    """Each of them a sentence, the one that keeps it longest first; none where it waits for nothing.

    Args:
        now: seconds since the epoch.
        breakers: why no sandbox of a template is created at the moment, by the template's name.
        held: what no task like it starts before, at the moment.
    """
    if task.state is TaskState.STARTING:
        return [
            f"its environment, which is being made for {max(0.0, now - task.started):.0f} s",
            *(
                f"perhaps a sandbox of {template!r}: none is created now, {why}"
                for template, why in breakers.items()
            ),
        ]
    if task.state in TERMINAL or task.state in ACTIVE:
        return []
    if task.state is TaskState.RETRYING:
        return [f"its retry's time, in {max(0.0, task.not_before - now):.0f} s: {task.reason}"]
    tenants, runners = store.tenants(), store.runners()
    ahead = store.ahead(task)
    peak = store.find_peak(task.tenant, task.environment) if task.environment else None
    reasons = [
        *([] if held is None else [held]),
        *_runners(task, peak, runners),
        *_quota(task, tenants),
        *_turn(task, store.waiting()),
    ]
    if ahead:
        tasks = "a task" if ahead == 1 else f"{ahead} tasks"
        reasons.append(f"{tasks} of {task.tenant}, older or of a higher priority")
    if not reasons:
        reasons.append("a runner's next claim: there is room for it")
    return reasons


def _quota(task: Task, tenants: Sequence[Tenant]) -> Iterator[str]:
    for tenant in tenants:
        if tenant.name == task.tenant and tenant.most is not None and tenant.running >= tenant.most:
            yield (
                f"the quota of {tenant.name}: {tenant.running} attempts are open, and running="
                f"{tenant.most} is the most (under [tenants.{tenant.name}])"
            )


def _turn(task: Task, waiting: Sequence[Tenant]) -> Iterator[str]:
    """Whom the next free place goes to before; who they are is nobody else's business."""
    mine = next((tenant for tenant in waiting if tenant.name == task.tenant), None)
    if mine is None:
        return
    first = [
        tenant
        for tenant in waiting
        if standing(tenant) < standing(mine)
        and (tenant.most is None or tenant.running < tenant.most)
    ]
    if first:
        others = "another tenant's turn" if len(first) == 1 else f"the turns of {len(first)} others"
        have = "has" if len(first) == 1 else "have"
        yield (
            f"{others}, which {have} less for the weight than {mine.name} ({mine.running} open at "
            f"weight {mine.weight:g}), or waited longer"
        )


def _runners(task: Task, peak: Peak | None, runners: Sequence[Runner]) -> Iterator[str]:
    """Why none of the runners can take it now."""
    active = [runner for runner in runners if runner.state is RunnerState.ACTIVE]
    if not active:
        others = f"; {len(runners)} end just now" if runners else ""
        yield f"a runner: none is registered{others}"
        return
    needs = {runner.id: takes(task, peak, runner.capacity) for runner in active}
    large = [runner for runner in active if needs[runner.id].fits(runner.capacity)]
    if not large:
        yield (
            f"a larger runner: it requests {_said(task.requests)}, and none of {len(active)} has that much "
            f"(the largest: {_said(max((one.capacity for one in active), key=_size))})"
        )
    elif not any(needs[runner.id].fits(runner.capacity - runner.used) for runner in large):
        used = sum(runner.used.slots for runner in large)
        slots = sum(runner.capacity.slots for runner in large)
        yield (
            f"room: the {len(large)} runners that could take it are full ({used} of {slots} slots "
            f"used; it requests {_said(task.requests)}{_measured(task, needs[large[0].id])})"
        )


def _measured(task: Task, needed: Resources) -> str:
    """What is set aside for it instead of what it requests, where that differs."""
    if needed == task.requests:
        return ""
    return f", and is given {_said(needed)} as tasks like it were measured"


def _size(resources: Resources) -> tuple[float, int, int]:
    return (resources.cpu, resources.memory, resources.slots)


def _said(resources: Resources) -> str:
    return f"cpu={resources.cpu:g}, memory={resources.memory / 2**20:g} MiB"
