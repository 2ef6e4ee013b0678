"""`megaflow simulate`: how long so many tasks take on so many machines, and what that costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from megaflow_server.cli.options import AsJson


def simulate(
    tasks: Annotated[int, typer.Option(min=1, max=1_000_000, help="Submitted at once.")] = 10_000,
    nodes: Annotated[
        int, typer.Option(min=1, max=100_000, help="Machines, of the small kind.")
    ] = 2000,
    task_minutes: Annotated[float, typer.Option(min=0.01, help="That a task takes.")] = 100.0,
    boot: Annotated[
        float, typer.Option(min=0, help="Seconds until a new machine is there.")
    ] = 60.0,
    creations: Annotated[
        float, typer.Option(min=0.01, help="Machines created in a minute.")
    ] = 200.0,
    clean: Annotated[
        float, typer.Option(min=0, help="Seconds between two tasks on a machine that stays.")
    ] = 45.0,
    price: Annotated[float, typer.Option(min=0, help="Of a machine's hour, in USD.")] = 0.30,
    large_slots: Annotated[int, typer.Option(min=1, help="Tasks that a large machine holds.")] = 50,
    large_price: Annotated[float, typer.Option(min=0, help="Of a large machine's hour.")] = 22.0,
    seed: Annotated[int, typer.Option(help="Of tasks' lengths.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the curves to this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question of capacity, with the orchestrator's own scheduler under a virtual clock.

    Compares a machine for each task, machines that stay, and few large machines, from one task to all of them.
    """
    from megaflow_server.orchestrator.simulation.capacity import Question, answers

    question = Question(
        tasks=tasks,
        nodes=nodes,
        minutes=task_minutes,
        boot=boot,
        creations=creations,
        clean=clean,
        price=price,
        large_price=large_price,
        large_slots=large_slots,
        seed=seed,
    )
    counts = sorted({tasks, *(10**power for power in range(7) if 10**power <= tasks)})
    found = answers(question, counts)
    if out is not None:
        from megaflow_server.orchestrator.simulation.figures import draw

        draw(found, out)
    if as_json:
        from dataclasses import asdict

        typer.echo(
            json.dumps(
                {"question": asdict(question), "answers": [asdict(one) for one in found]}, indent=2
            )
        )
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("mode")
    for title in ("tasks", "hours", "start s", "most s", "tasks/h", "used", "USD", "each"):
        table.add_column(title, justify="right")
    for one in found:
        table.add_row(
            one.mode,
            f"{one.tasks:,}",
            f"{one.hours:,.2f}",
            f"{one.start_up:,.0f}",
            f"{one.start_up_most:,.0f}",
            f"{one.per_hour:,.0f}",
            f"{one.utilisation:.0%}",
            f"{one.cost:,.2f}",
            f"{one.cost_per_task:.3f}",
        )
    Console().print(table)
