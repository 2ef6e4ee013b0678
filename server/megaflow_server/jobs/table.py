"""The live table of a job, and its plain form: each a function of its progress alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from megaflow import JobStatus, Result
from megaflow_server.jobs.progress import ACTIVE, Progress

__all__ = ["Names", "duration", "failed_line", "live", "plain", "reward_of"]

# The name of each task, by its place.
Names = Mapping[int, str]

_STYLES = {
    "queued": "dim", "retrying": "yellow", "starting": "cyan", "running": "cyan", "evaluating": "cyan",
    "succeeded": "green", "failed": "red", "cancelled": "magenta", "quarantined": "bold red",
}  # fmt: skip
# Rows of each part: a terminal of 24 lines holds all of it.
_MOST_FAILURES, _MOST_SLOW = 4, 4
_BAR = 40


def live(
    title: str, progress: Progress, now: float, slow: Sequence[tuple[str, str, float]] = ()
) -> RenderableType:
    """What a person sees while the job runs.

    Args:
        slow: tasks that have run for longest: name, state, seconds.
    """
    parts: list[RenderableType] = [_head(title, progress, now), _states(progress)]
    if failures := _failures(progress):
        parts += [Text(), *failures]
    if slow:
        parts += [Text(), _slowest(slow)]
    return Group(*parts)


def plain(title: str, progress: Progress, now: float) -> str:
    """The same as one line of a log."""
    said = [f"{title}: {progress.done}/{progress.total or '?'}"]
    said += [f"{count} {state}" for state, count in progress.states().items()]
    said += _figures(progress, now)
    return ", ".join(said)


def failed_line(result: Result, names: Names) -> str | None:
    """What went wrong with a task, as a line of a log; None where nothing did."""
    if result.failure is None and result.valid:
        return None
    failure = result.failure
    why = f"{failure.kind} while {failure.phase}: {failure.reason}" if failure else result.state
    count = f"reward {reward_of(result)}" if result.valid else "no result"
    return f"{sample_name(result, names)}: {count}: {why}"


def sample_name(result: Result, names: Names) -> str:
    """A task's name, and which of its samples."""
    name = names.get(result.index, result.group or result.task_id)
    return f"{name} [{result.sample + 1}]" if result.sample else name


def reward_of(result: Result) -> str:
    """A reward as it is shown: "–" for none."""
    return "–" if result.reward is None else f"{result.reward:.4g}"


def duration(seconds: float | None) -> str:
    """Of a few characters; "–" for none."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h"


def _head(title: str, progress: Progress, now: float) -> RenderableType:
    line = Table.grid(padding=(0, 2))
    figures = "   ".join(_figures(progress, now))
    bar = ProgressBar(total=max(1, progress.total), completed=progress.done, width=_BAR)
    line.add_row(Text(title, style="bold"), bar, Text(f"{progress.done} of {progress.total}"))
    return Group(line, Text(figures))


def _figures(progress: Progress, now: float) -> list[str]:
    said = []
    if (mean := progress.mean_reward()) is not None:
        said.append(f"mean reward {mean:.3f}")
    if (rate := progress.rate()) is not None:
        said.append(f"{rate * 60:.3g}/min" if rate < 1 else f"{rate:.3g}/s")
    if progress.status is not None:
        if (cost := _cost(progress.status)) is not None:
            said.append(cost)
        if progress.complete:
            pass
        elif (eta := progress.eta()) is not None:
            said.append(f"{duration(eta)} left")
        said.append(f"after {duration(now - progress.started)}")
    if retries := progress.retries():
        said.append(f"{retries} retries")
    if progress.broken:
        said.append(f"{len(progress.broken)} broken")
    return said


def _cost(status: JobStatus) -> str | None:
    if not status.known_cost:
        return None
    most = "" if status.max_cost is None else f" of ${status.max_cost:g}"
    return f"{'' if status.cost is not None else 'over '}${status.known_cost:.4g}{most}"


def _states(progress: Progress) -> RenderableType:
    states = progress.states()
    if not states:
        return Text("waiting for the server", style="dim")
    line = Text()
    for state, count in states.items():
        line.append(f"{count} {state}   ", style=_STYLES[state])
    if not any(states.get(name) for name in ACTIVE) and progress.done < progress.total:
        line.append("nothing runs yet: `megaflow why TASK` says what a task waits for", style="dim")
    return line


def _failures(progress: Progress) -> Iterator[RenderableType] | None:
    failures = progress.failures()
    if not failures:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, justify in (
        ("failures", "right"),
        ("class", "left"),
        ("which are", "left"),
        ("the last one", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for one in failures[:_MOST_FAILURES]:
        style = "yellow" if one.valid else "red"
        counts = "results" if one.valid else "no results"
        table.add_row(str(one.count), f"[{style}]{one.kind}[/]", counts, escape(_line(one.reason)))
    return iter([table])


def _line(text: str) -> str:
    return " ".join(text.split())


def _slowest(slow: Sequence[tuple[str, str, float]]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("longest", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("task", no_wrap=True, overflow="ellipsis")
    for name, state, seconds in slow[:_MOST_SLOW]:
        table.add_row(
            duration(seconds),
            f"[{_STYLES.get(state, '')}]{state}[/]" if state in _STYLES else state,
            escape(name),
        )
    return table
