"""Commands that show the numbers: quotas, statistics, events."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from modelmesh.cli.operate import open_client
from modelmesh.cli.output import refusals, show, show_json

JsonOption = Annotated[bool, typer.Option("--json", help="Print what the API answered, for programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (usage,):
        app.command()(command)


def usage(*, as_json: JsonOption = False) -> None:
    """Every quota: used, left, and when it runs dry; pools first, then accounts."""
    from modelmesh.ops_client import understand
    from modelmesh.usage_view import usage_view
    from shared_state.shapes.usage import UsageView

    with refusals(), open_client() as client:
        answer = client.get("usage")
        view = understand(answer, UsageView)
    show_json(answer) if as_json else show(usage_view(view, now=time.time()))
