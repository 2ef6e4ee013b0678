"""A report as a picture, and as a page with that picture in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

from megaflow.errors import InvalidArgument
from megaflow_server.jobs.report import Report
from megaflow_server.jobs.table import duration

__all__ = ["facts", "lines", "write_report"]

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
    "img{max-width:100%}"
)


def write_report(report: Report, path: Path) -> None:
    """Write it as .png or .html. Raises InvalidArgument for another ending, or without matplotlib."""
    if path.suffix not in (".png", ".html"):
        raise InvalidArgument(f"--out {path}: give a file that ends with .png or .html")
    picture = _picture(report)
    content = picture if path.suffix == ".png" else _page(report, picture).encode()
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def facts(report: Report) -> dict[str, object]:
    """All of it, as plain values."""
    counts, edges = report.histogram()
    return {
        "job": report.title,
        "tasks": report.tasks,
        "samples": report.samples,
        "broken": report.broken,
        "with_reward": len(report.rewards),
        "mean_reward": report.mean,
        "pass_at": {str(k): value for k, value in report.pass_at.items()},
        "rewards": {"counts": counts, "edges": edges},
        "failures": dict(report.failures),
        "phases": {
            phase: {"p50": one.p50, "p95": one.p95, "p99": one.p99}
            for phase, one in report.phases.items()
        },
        "wall_seconds": report.wall,
        "peak_concurrency": report.peak,
        "utilisation": report.utilisation,
        "cost": report.cost,
        "known_cost": report.known_cost,
        "cost_per_task": report.cost_per_task,
        "cost_per_valid_sample": report.cost_per_valid,
    }


def lines(report: Report) -> Iterator[tuple[str, str]]:
    """What is said of it in words: names and values."""
    yield "samples with a reward", f"{len(report.rewards)} of {report.samples}"
    if report.broken:
        yield "broken tasks", str(report.broken)
    if report.mean is not None:
        yield "mean reward", f"{report.mean:.4g}"
    for k, value in report.pass_at.items():
        if k & (k - 1) == 0 or k == len(report.pass_at):  # 1, 2, 4, … and the last
            yield f"pass@{k}", f"{value:.3f}"
    if report.known_cost:
        yield "cost", _dollars(report.cost) or f"unknown, over {_dollars(report.known_cost)}"
        yield "cost per task", _dollars(report.cost_per_task) or "unknown"
        yield "cost per sample with a reward", _dollars(report.cost_per_valid) or "unknown"
    for name, count in report.failures.items():
        yield f"failures: {name}", str(count)
    for phase, one in report.phases.items():
        said = " / ".join(
            duration(value) if value >= 10 else f"{value:.2f} s"
            for value in (one.p50, one.p95, one.p99)
        )
        yield f"{phase}, p50 / p95 / p99", said
    yield "from submission to the last end", duration(report.wall)
    yield "most at once", str(report.peak)
    if report.utilisation is not None:
        yield "on average, of the most at once", f"{report.utilisation:.0%}"


def _dollars(cost: float | None) -> str | None:
    return None if cost is None else f"${cost:.4g}"


def _page(report: Report, picture: bytes) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in lines(report)
    )
    encoded = base64.b64encode(picture).decode()
    title = escape(report.title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f'<h1>{title}</h1><table>{rows}</table><img alt="Figures of {title}" src="data:image/png;base64,{encoded}">'
        "</html>\n"
    )


def _picture(report: Report) -> bytes:
    try:
        import matplotlib
    except ImportError as error:
        raise InvalidArgument(
            f"a report needs {error.name}: pip install 'megaflow[report]'"
        ) from error
    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, ((rewards, passes), (phases, running)) = pyplot.subplots(2, 2, figsize=(11, 7))
    counts, edges = report.histogram()
    rewards.stairs(counts, edges, fill=True)
    rewards.set(title="Rewards", xlabel="reward", ylabel="samples")
    passes.plot(list(report.pass_at), list(report.pass_at.values()), marker="o")
    passes.set(title="pass@k", xlabel="k", ylim=(-0.05, 1.05))
    passes.set_xlim(0.5, max(report.pass_at, default=1) + 0.5)
    for offset, name in enumerate(("p50", "p95", "p99")):
        places = [place + 0.27 * (offset - 1) for place in range(len(report.phases))]
        phases.bar(places, [getattr(one, name) for one in report.phases.values()], 0.25, label=name)
    phases.set_xticks(range(len(report.phases)), list(report.phases))
    phases.set(title="Time in each phase", ylabel="seconds")
    phases.legend()
    at, count = zip(*report.concurrency, strict=True) if report.concurrency else ((0.0,), (0,))
    running.step(at, count, where="post")
    running.set(title="Attempts at once", xlabel="seconds since submission")
    for counted in (passes.xaxis, rewards.yaxis, running.yaxis):
        counted.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(report.title)
    figure.tight_layout()
    out = io.BytesIO()
    # Without the version of what drew it: equal reports are equal files.
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return out.getvalue()
