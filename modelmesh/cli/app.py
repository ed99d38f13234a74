"""The commands, put together. What a command needs is imported when it runs: `--help` stays quick."""

from __future__ import annotations

from typing import Annotated

import typer

from modelmesh import __version__
from modelmesh.cli import configure, decide, keys, observe, operate, run, secrets, state

app = typer.Typer(
    name="modelmesh",
    help="A capability-driven LLM router that runs as a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
run.register(app)
operate.register(app)
observe.register(app)
decide.register(app)
configure.register(app)
keys.register(app)
state.register(app)
secrets.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end."),
    ] = False,
) -> None:
    pass
