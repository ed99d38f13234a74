"""Commands on configurations: `config check`."""

from __future__ import annotations

from typing import Annotated

import typer

from modelmesh.cli.output import refusals, show

_config = typer.Typer(name="config", help="Configurations.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_config)


@_config.command()
def check(file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """Check a configuration: what it describes, or every fault; exit code 1 if it has one."""
    from modelmesh.views import topology_view
    from node.routing.strategies import build_strategies
    from shared_state.config.loader import load_config
    from shared_state.topology import build_topology

    with refusals():
        topology = build_topology(load_config(file))
        build_strategies(topology.pools.values())
    show(topology_view(topology))


@_config.callback()
def _group() -> None:
    pass
