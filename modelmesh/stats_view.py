"""`modelmesh stats`: what went through in the last minutes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from modelmesh.drawing import BAD, FAIR, GOOD, QUIET, Fitting, amount, table, text
from shared_state.shapes.statistics import StatsMinute, StatsRow, StatsView

_STEPS = " ▁▂▃▄▅▆▇█"


def stats_view(stats: StatsView) -> RenderableType:
    """The rows, their sum, and how the minutes went."""
    view = table(
        f"Last {stats.minutes} minutes",
        stats.by,
        "#requests",
        "#ok",
        "#failed",
        "#neutral",
        "#abandoned",
        "#estimated",
        "#tokens in",
        "#out",
        "#cost",
        "#mean",
        "#p50",
        "#p95",
        "#p99",
        "#first",
    )
    for row in stats.rows:
        view.add_row(text(row.name or "(none)"), *_cells(row))
    view.add_section()
    view.add_row(Text("all", style="bold"), *_cells(stats.totals))
    spare = ("estimated", "neutral", "abandoned", "p50", "first", "ok", "p99", "mean", "tokens in", "out")
    return Group(Fitting(view, *spare), _timeline(stats.timeline), _limits(stats))


def _cells(row: StatsRow) -> Sequence[Text]:
    return [
        Text(amount(row.requests)),
        Text(amount(row.ok), style=GOOD if row.ok else QUIET),
        _bad(row.failed, BAD),
        _bad(row.neutral, ""),
        _bad(row.abandoned, BAD),
        _bad(row.estimated, FAIR),
        Text(amount(row.tokens_in)),
        Text(amount(row.tokens_out)),
        Text(amount(row.cost_usd, is_money=True)),
        *map(_time, (row.latency_ms, row.p50_ms, row.p95_ms, row.p99_ms, row.first_content_ms)),
    ]


def _bad(count: int, style: str) -> Text:
    return Text(amount(count), style=style if count else QUIET)


def _time(ms: float | None) -> Text:
    if ms is None:
        return Text("-", style=QUIET)
    return Text(f"{ms:,.0f} ms" if ms < 10_000 else f"{ms / 1000:,.1f} s")


def _timeline(minutes: Sequence[StatsMinute]) -> Text:
    """A column for each minute; red where more than a tenth failed."""
    most = max((minute.requests for minute in minutes), default=0)
    line = Text("requests a minute  ", style=QUIET)
    for minute in minutes:
        height = -(-minute.requests * (len(_STEPS) - 1) // most) if most else 0
        line.append(_STEPS[height], style=BAD if minute.failed * 10 > minute.requests else GOOD)
    return line.append(f"  at most {amount(most)}", style=QUIET)


def _limits(stats: StatsView) -> Text:
    return Text(
        f"Requests are attempts on providers. Redis keeps the last {stats.kept_minutes} minutes; older ones are in the durable store.",
        style=QUIET,
    )
