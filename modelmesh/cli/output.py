"""How commands speak: results on standard output, refusals in one place on standard error, exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType

from modelmesh.errors import FrontDoorError
from shared_state.errors import ModelMeshError

EXIT_REFUSED = 1
_PIPE_WIDTH = 200


def show(view: RenderableType) -> None:
    """A view; wide when no terminal sets the width, so that lines stay whole in a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    console.print(view)


def show_json(value: Any) -> None:
    """The same for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def refusals() -> Iterator[None]:
    """Our own errors end the command with their message instead of a traceback."""
    try:
        yield
    except ModelMeshError as error:
        typer.echo(f"modelmesh: {error.message}", err=True)
        raise typer.Exit(error.exit_code if isinstance(error, FrontDoorError) else EXIT_REFUSED) from error
