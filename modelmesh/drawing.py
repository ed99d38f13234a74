"""How things are drawn in a terminal: tables, colours, bars, times in words."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

GOOD, FAIR, BAD, QUIET = "green", "yellow", "bold red", "dim"
_STYLES = {
    "active": GOOD,
    "alive": GOOD,
    "exact": GOOD,
    "draining": FAIR,
    "leased": FAIR,
    "standby": BAD,
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


def state(state: str, phase: str = "") -> Text:
    return Text(clean(f"{state} ({phase})" if phase else state), style=_STYLES.get(state, ""))


def text(value: str | None) -> Text:
    return Text(clean(value or ""))


def clean(value: str) -> str:
    """Reasons and names come from providers too: no control character reaches the terminal."""
    return "".join(char if char.isprintable() else "?" for char in value)
