"""Metrics in Prometheus's form: what the store says now, and what this orchestrator has counted since it started.

Tenants are labels, tasks and runners never: there are too many of them, and they do not come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from megaflow_server.orchestrator.figures import BOUNDS, Figures, Histogram
from megaflow_server.orchestrator.records import TaskState, Tenant
from megaflow_server.orchestrator.store.base import Store

__all__ = ["CONTENT_TYPE", "Seen", "exposition", "look"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


@dataclass(frozen=True)
class Seen:
    """What the store said at one moment.

    Attributes:
        counts: of tasks, by tenant and state.
        slots: those of runners, and how many are used.
    """

    counts: Sequence[tuple[str, TaskState, int]]
    tenants: Sequence[Tenant]
    runners: int
    slots: int
    used: int


def look(store: Store) -> Seen:
    """What metrics are made of; outside of transactions."""
    runners = store.runners()
    return Seen(
        counts=store.counts(),
        tenants=store.tenants(),
        runners=len(runners),
        slots=sum(runner.capacity.slots for runner in runners),
        used=sum(runner.used.slots for runner in runners),
    )


def exposition(seen: Seen, figures: Figures) -> bytes:
    """The text that a scrape is answered with."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector([*_of_store(seen), *_of_figures(figures)]))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _of_store(seen: Seen) -> Iterator[Metric]:
    tasks = GaugeMetricFamily(
        "megaflow_tasks", "Tasks by tenant and state.", labels=["tenant", "state"]
    )
    counted = {(tenant, state): count for tenant, state, count in seen.counts}
    for tenant in seen.tenants:
        for state in TaskState:
            tasks.add_metric([tenant.name, state.value], counted.get((tenant.name, state), 0))
    yield tasks
    used = GaugeMetricFamily(
        "megaflow_quota_running_used", "Attempts that a tenant has open.", labels=["tenant"]
    )
    limit = GaugeMetricFamily(
        "megaflow_quota_running_limit",
        "Attempts that a tenant may have open; absent where it has no limit of its own.",
        labels=["tenant"],
    )
    for tenant in seen.tenants:
        used.add_metric([tenant.name], tenant.running)
        if tenant.most is not None:
            limit.add_metric([tenant.name], tenant.most)
    yield from (used, limit)
    yield GaugeMetricFamily("megaflow_runners", "Runners that hold a lease.", seen.runners)
    yield GaugeMetricFamily("megaflow_runner_slots", "Attempts that they take.", seen.slots)
    yield GaugeMetricFamily("megaflow_runner_slots_used", "Attempts that they have.", seen.used)


def _of_figures(figures: Figures) -> Iterator[Metric]:
    for name, help_, value in (
        ("megaflow_claims", "Attempts that were given to runners.", figures.claims),
        ("megaflow_leases_expired", "Runners whose lease ran out.", figures.expired),
        ("megaflow_fenced_writes", "Reports that came too late to count.", figures.fenced),
    ):
        yield CounterMetricFamily(name, help_, value)
    for name, help_, histogram in (
        (
            "megaflow_schedule_to_start_seconds",
            "From a task's queueing to its claim.",
            figures.started,
        ),
        ("megaflow_claim_seconds", "From a claim to its answer.", figures.claiming),
        (
            "megaflow_store_transaction_seconds",
            "Transactions, with their commit.",
            figures.transactions,
        ),
    ):
        yield _histogram(name, help_, histogram)


def _histogram(name: str, help_: str, histogram: Histogram) -> Metric:
    total, buckets = 0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), list(histogram.counts), strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, help_, buckets=buckets, sum_value=histogram.sum)
