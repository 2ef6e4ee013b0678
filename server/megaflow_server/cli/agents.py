"""`megaflow agents`: command-line agents with their runtimes, as folders that are copied into sandboxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from megaflow_server.cli.options import AsJson

app = typer.Typer(help="Command-line agents, as bundles.", no_args_is_help=True)

Wanted = Annotated[
    str, typer.Argument(metavar="NAME", help="A preset's name, or a recipe: a TOML file.")
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the presets, and the bundles of this machine."""
    from megaflow.agent_bundles import PRESETS, bundles
    from megaflow_server.cli.report import print_json, print_table

    made = bundles()
    if as_json:
        presets: list[dict[str, Any]] = [
            {
                "name": name,
                "version": one.recipe.version,
                "tested": one.tested,
                "command": one.recipe.command,
            }
            for name, one in PRESETS.items()
        ]
        there = [
            {"name": one.name, "version": one.version, "size": one.size, "path": str(one.path)}
            for one in made
        ]
        print_json({"presets": presets, "bundles": there})
        return
    rows = [
        (name, one.recipe.version, "preset" if one.tested else "preset, untested", "", "")
        for name, one in PRESETS.items()
    ]
    rows += [
        (one.name, one.version, "bundle", f"{one.size / 1e6:.0f} MB", str(one.path)) for one in made
    ]
    print_table(("name", "version", "what", "size", "folder"), rows)


@app.command("bundle")
def bundle(name: Wanted, as_json: AsJson = False) -> None:
    """Make the bundle of an agent on this machine, which is where the runner is to be: once for each version.

    It goes to $MEGAFLOW_AGENTS, else to megaflow/agents in the user's ~/.local/share.
    """
    from megaflow.agent_bundles import PRESETS, Recipe, build
    from megaflow_server.cli.report import print_json

    recipe = PRESETS[name].recipe if name in PRESETS else Recipe.load(Path(name))
    made = build(recipe)
    if as_json:
        print_json(
            {"name": made.name, "version": made.version, "size": made.size, "path": str(made.path)}
        )
    else:
        typer.echo(f"{made.name}@{made.version}: {made.size / 1e6:.0f} MB in {made.path}")
