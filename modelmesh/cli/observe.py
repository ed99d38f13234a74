"""Commands that show the numbers: quotas, statistics, events."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from modelmesh.cli.operate import open_client
from modelmesh.cli.output import refusals, show, show_json


class By(StrEnum):
    """What statistics are summed by."""

    MODEL = "model"
    POOL = "pool"
    PROVIDER = "provider"


JsonOption = Annotated[bool, typer.Option("--json", help="Print what the API answered, for programs.")]

MinutesOption = Annotated[int, typer.Option("--minutes", min=1, max=60, help="How far back.")]
ByOption = Annotated[By, typer.Option("--by", help="What is summed up in a row.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (usage, stats):
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


def stats(*, minutes: MinutesOption = 5, by: ByOption = By.MODEL, as_json: JsonOption = False) -> None:
    """What went through in the last minutes: requests, tokens, money, latencies."""
    from modelmesh.ops_client import understand
    from modelmesh.stats_view import stats_view
    from shared_state.shapes.statistics import StatsView

    with refusals(), open_client() as client:
        answer = client.get("stats", minutes=minutes, by=by.value)
        view = understand(answer, StatsView)
    show_json(answer) if as_json else show(stats_view(view))
