"""Commands that move state: `state export`, `state import`. They talk to Redis directly."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.output import refusals, show
from modelmesh.cli.run import ConfigOption

if TYPE_CHECKING:
    from modelmesh.state_files import Moved

_state = typer.Typer(name="state", help="Moving state between deployments.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE")]
RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis", metavar="URL", envvar="MODELMESH_REDIS_URL", help="Default: the configuration's."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Add to state that is there already.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_state)


@_state.command("export")
def export(file: FileArgument, *, config: ConfigOption = None, redis: RedisOption = None) -> None:
    """Write limits, books, states and what is in flight to a file."""
    import asyncio

    from modelmesh.state_files import export_state

    with refusals():
        moved = asyncio.run(export_state(file, config_path=config, redis_url=redis))
    _tell("exported", moved)


@_state.command("import")
def import_(
    file: FileArgument, *, config: ConfigOption = None, redis: RedisOption = None, force: ForceOption = False
) -> None:
    """Read such a file into an empty deployment."""
    import asyncio

    from modelmesh.state_files import import_state

    with refusals():
        moved = asyncio.run(import_state(file, config_path=config, redis_url=redis, is_forced=force))
    _tell("imported", moved)


def _tell(verb: str, moved: Iterable[Moved]) -> None:
    from rich.text import Text

    for row in moved:
        counts = f"{row.domain}: {row.admissions} admissions, {row.reservations} in flight {verb}"
        show(Text(f"{counts}; {row.note}" if row.note else counts))
