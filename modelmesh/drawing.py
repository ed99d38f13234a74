"""How things are drawn in a terminal: tables, colours, bars, times in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from shared_state.state import Trigger

GOOD, FAIR, BAD, QUIET = "green", "yellow", "bold red", "dim"
_STYLES = {
    "active": GOOD,
    "alive": GOOD,
    "exact": GOOD,
    "healthy": GOOD,
    "draining": FAIR,
    "degraded": FAIR,
    "unavailable": BAD,
    "leased": FAIR,
    "standby": BAD,
    "expired": FAIR,
    "revoked": QUIET,
    "dead": BAD,
    "open": BAD,
}
_UNITS_S = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def table(title: str, *columns: str) -> Table:
    """An empty table; columns whose name begins with # hold numbers."""
    view = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column.startswith("#")
        view.add_column(column.lstrip("#"), justify="right" if is_number else "left", overflow="fold")
    return view


def span(seconds: float) -> str:
    """A length of time in its one or two largest units: `3h 20m`, `45s`, `0.2s`."""
    if seconds < 1:
        return f"{max(seconds, 0.0):.1f}s"
    rest = int(seconds)
    parts: list[str] = []
    for unit, size_s in _UNITS_S:
        count, rest = divmod(rest, size_s)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(filter(None, parts))


def until(moment: float | None, *, now: float) -> str:
    """When a time will have come."""
    if moment is None:
        return ""
    return f"in {span(moment - now)}" if moment > now else "due"


#: What each trigger waits for, where the time alone does not say it.
_WAITS_FOR: Mapping[str, str] = {
    Trigger.QUOTA_RESET: "reset",
    Trigger.PROBE_SUCCESS: "trial",
    Trigger.STARTUP_PROBE: "trial",
}


def back(moment: float | None, trigger: str, *, now: float) -> str:
    """When something comes back, and by what."""
    if trigger == Trigger.MANUAL:
        return "by order"
    when, what = until(moment, now=now), _WAITS_FOR.get(trigger, "")
    return f"{when}, {what}" if when and what else when or what


def state(state: str, phase: str = "") -> Text:
    return Text(clean(f"{state} ({phase})" if phase else state), style=_STYLES.get(state, ""))


def text(value: str | None) -> Text:
    return Text(clean(value or ""))


def clean(value: str) -> str:
    """Reasons and names come from providers too: no control character reaches the terminal."""
    return "".join(char if char.isprintable() else "?" for char in value)


def bar(share: float, *, held: float = 0.0, width: int = 16) -> Text:
    """How full something is, by its length and its colour; what is held for later is shaded behind what is used."""
    used = max(0.0, min(1.0, share - held))
    eighths = round(used * width * 8)
    if used > 0:
        eighths = max(1, eighths)
    text = Text("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip(), style=load_style(share))
    text.append("▒" * min(width - len(text), round(held * width)), style=QUIET)
    return text.append("░" * (width - len(text)), style=QUIET)


def load_style(share: float) -> str:
    """Green, yellow from 70 percent on, red from 90 percent on."""
    return BAD if share >= 0.9 else FAIR if share >= 0.7 else GOOD


def amount(value: float, *, is_money: bool = False) -> str:
    """A number in a few characters: `99,999`, `123.4k`, `4.5M`, `$0.0123`."""
    if is_money:
        cents, _, rest = f"{value:,.4f}".partition(".")
        return f"${cents}.{rest[:2]}{rest[2:].rstrip('0') if value < 10 else ''}"
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e5, 1e3, "k")):
        if value >= least:
            return f"{value / size:,.1f}{letter}"
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"


class Fitting:
    """A table that leaves out its less important columns where the terminal is narrow.

    Args:
        spare: columns to leave out, the least important first.
    """

    def __init__(self, view: Table, *spare: str) -> None:
        self._view = view
        self._spare = spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, endless = self._view, options.update(max_width=10**6)
        for count in range(len(self._spare) + 1):
            view = _without(self._view, self._spare[:count])
            if Measurement.get(console, endless, view).maximum <= options.max_width:
                break
        yield view


def _without(view: Table, names: Sequence[str]) -> Table:
    kept = [column for column in view.columns if column.header not in names]
    fresh = table(str(view.title))
    for column in kept:
        fresh.add_column(column.header, justify=column.justify, overflow=column.overflow)
    for row, cells in zip(view.rows, zip(*(column.cells for column in kept), strict=True), strict=True):
        fresh.add_row(*cells, style=row.style, end_section=row.end_section)
    return fresh
