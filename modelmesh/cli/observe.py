"""Commands that show the numbers: quotas, statistics, events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.operate import JsonOption, open_client
from modelmesh.cli.output import refusals, show, show_json

if TYPE_CHECKING:
    from shared_state.shapes.status import EventView


class By(StrEnum):
    """What statistics are summed by."""

    MODEL = "model"
    POOL = "pool"
    PROVIDER = "provider"


MinutesOption = Annotated[int, typer.Option("--minutes", min=1, max=60, help="How far back.")]
ByOption = Annotated[By, typer.Option("--by", help="What is summed up in a row.")]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens.")]
LastOption = Annotated[int, typer.Option("--last", "-n", min=0, max=1000, help="How many of the latest.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (usage, stats, events):
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


def events(*, follow: FollowOption = False, last: LastOption = 50, as_json: JsonOption = False) -> None:
    """What happened to models and providers: when, what, who, why; with --follow also what happens."""
    with refusals(), suppress(KeyboardInterrupt):
        if follow:
            _follow(last, as_json=as_json)
            return
        with open_client() as client:
            found = list(client.events(follow=False, last=last))
        if as_json:
            show_json([event.model_dump() for event in found])
        else:
            _print_lines(found)


def _follow(last: int, *, as_json: bool) -> None:
    from modelmesh.event_feed import follow

    def tell() -> None:
        typer.echo("modelmesh: the feed has ended; it is opened again as soon as a node answers", err=True)

    def open_feed(count: int) -> Iterator[EventView]:
        with open_client() as client:
            yield from client.events(follow=True, last=count)

    feed = follow(open_feed, last=last, on_break=tell, pause=lambda: time.sleep(1.0))
    if not as_json:
        _print_lines(feed)
        return
    for event in feed:
        typer.echo(event.model_dump_json())


def _print_lines(found: Iterable[EventView]) -> None:
    from modelmesh.event_feed import event_line

    for event in found:
        show(event_line(event))
