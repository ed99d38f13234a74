"""Commands that start something: `serve`, `demo`, `node`, `scheduler`."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from modelmesh.cli.output import refusals

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "-c", "--config", metavar="FILE", help="Default: MODELMESH_CONFIG, else the environment's keys."
    ),
]
HostOption = Annotated[
    str | None, typer.Option("--host", help="Default: the configuration's, else 127.0.0.1.")
]
PortOption = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="Default: the configuration's, else 8080.")
]
NodesOption = Annotated[
    int, typer.Option("--nodes", min=1, max=256, help="How many router nodes share the port.")
]
RedisOption = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", help="Default: MODELMESH_REDIS_URL, else an embedded store."),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Serve beyond loopback without authentication.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(serve)
    app.command()(demo)
    app.command(context_settings=_PASS_ON)(node)
    app.command(context_settings=_PASS_ON)(scheduler)


def serve(
    *,
    config: ConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    nodes: NodesOption = 1,
    redis: RedisOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Run everything on this machine: nodes, a scheduler, and a store unless a Redis is given."""
    from modelmesh.serve import ServeOptions
    from modelmesh.serve import serve as run

    with refusals():
        options = ServeOptions(
            config_path=config, host=host, port=port, nodes=nodes, redis_url=redis, insecure=insecure
        )
        raise typer.Exit(run(options))


def demo(
    *,
    host: HostOption = None,
    port: PortOption = None,
    nodes: NodesOption = 1,
    redis: RedisOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Serve three local mock providers of different tempers; no key needed."""
    from modelmesh.serve import ServeOptions
    from modelmesh.serve import serve as run

    with refusals():
        options = ServeOptions(
            host=host, port=port, nodes=nodes, redis_url=redis, insecure=insecure, is_demo=True
        )
        raise typer.Exit(run(options))


def node(context: typer.Context) -> None:
    """Run one router node (`--help` shows its options)."""
    from node.options import parse

    parse(context.args, prog="modelmesh node")  # help and mistakes are this command's
    _become("node", context.args)


def scheduler(context: typer.Context) -> None:
    """Run one scheduler (`--help` shows its options)."""
    from scheduler.options import parse

    parse(context.args, prog="modelmesh scheduler")
    _become("scheduler", context.args)


def _become(module: str, arguments: list[str]) -> NoReturn:
    """Go on as `python -m` of that module: what the command line has imported would stay in its memory, 9 MB of it."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
