"""Commands on configurations: `config check`, and over the operators' API `push`, `show`, `history`, `rollback`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelmesh.cli.operate import JsonOption, open_client, seconds
from modelmesh.cli.output import refusals, show, show_json

if TYPE_CHECKING:
    from modelmesh.ops_client import OpsClient

_config = typer.Typer(name="config", help="Configurations.", no_args_is_help=True)

CommentOption = Annotated[str, typer.Option("--comment", metavar="TEXT", help="Shown in the history.")]
TimeoutOption = Annotated[
    str, typer.Option("--timeout", metavar="DURATION", help="How long every node may take to run it.")
]


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


@_config.command()
def push(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    *,
    comment: CommentOption = "",
    timeout: TimeoutOption = "30s",
    force: Annotated[
        bool, typer.Option("--force", help="A new version even if nothing changes: secrets are read again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give the cluster a new version and wait until every node runs it; exit code 1 if one refuses or lags."""
    from modelmesh.config_push import read_for_push

    with refusals(), open_client() as client:
        document, left_out = read_for_push(file)
        if left_out and not as_json:
            typer.echo(f"left out, for they are each process's own: {', '.join(left_out)}")
        body = {"document": document, "comment": comment, "force": force}
        _give(client, "config", body, timeout=timeout, as_json=as_json)


@_config.command()
def rollback(
    number: Annotated[int, typer.Argument(metavar="N", min=1)],
    *,
    comment: CommentOption = "",
    timeout: TimeoutOption = "30s",
    as_json: JsonOption = False,
) -> None:
    """Put version N into force again, as a new version, and wait until every node runs it."""
    with refusals(), open_client() as client:
        body = {"number": number, "comment": comment}
        _give(client, "config/rollback", body, timeout=timeout, as_json=as_json)


@_config.command("show")
def show_(
    number: Annotated[
        int | None, typer.Argument(metavar="N", min=1, help="Default: the version in force.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """The configuration as it was written, references unresolved; fit to be edited and pushed."""
    from modelmesh.config_views import document_text, version_text
    from modelmesh.ops_client import understand
    from shared_state.shapes.configuration import ConfigView, StoredVersionView

    with refusals(), open_client() as client:
        answer = client.get("config" if number is None else f"config/{number}")
        if as_json:
            show_json(answer)
        elif number is None:
            typer.echo(document_text(understand(answer, ConfigView)))
        else:
            typer.echo(version_text(understand(answer, StoredVersionView)))


@_config.command()
def history(*, as_json: JsonOption = False) -> None:
    """The versions that are remembered, newest first."""
    from modelmesh.config_views import history_view
    from modelmesh.ops_client import understand
    from shared_state.shapes.configuration import HistoryView

    with refusals(), open_client() as client:
        answer = client.get("config/history")
        known = understand(answer, HistoryView)
    show_json(answer) if as_json else show(history_view(known))


def _give(client: OpsClient, path: Any, body: dict[str, Any], *, timeout: str, as_json: bool) -> None:
    """Push, and wait for every node."""
    from modelmesh.config_push import author, wait_for_nodes
    from modelmesh.ops_client import understand
    from shared_state.shapes.configuration import ConfigView

    within_s = seconds(timeout, hint="--timeout") or 0.0  # before anything is pushed
    base = understand(client.get("config"), ConfigView).number
    pushed = client.push(path, {**body, "base": base, "author": author()})
    tell = _silence if as_json else typer.echo
    tell(f"version {pushed.number} {'is' if pushed.is_new else 'was already'} in force ({pushed.version})")
    runs = wait_for_nodes(client, pushed.number, within_s=within_s, tell=tell)
    if as_json:
        show_json({**pushed.model_dump(), "nodes": [node.model_dump() for node in runs]})
    else:
        typer.echo(f"version {pushed.number} runs on {len(runs)} node{'' if len(runs) == 1 else 's'}")


def _silence(_: str) -> None:
    pass
