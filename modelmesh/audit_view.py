"""`modelmesh audit`: every balance of the books, what is off and why, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelmesh.drawing import BAD, GOOD, QUIET, table, text, until
from shared_state.shapes.status import BalanceView, BooksView, BookView

_COUNTS: Final = ("admitted", "settled", "abandoned", "in_flight", "difference")
_MEANINGS: Final = {
    "missing_settlements": "admitted, and neither settled, abandoned nor in flight",
    "booked_twice": "settled or abandoned more than once",
    "leaked_reservations": "reservations and their expiries that lack each other",
    "held_leases": "windows that hold another amount than the leases",
}


def audit_view(books: BooksView) -> RenderableType:
    """The accounts, their sums, the causes, the verdict."""
    return Group(
        _accounts(books),
        _sums(books),
        _causes(books),
        *_leftovers(books),
        *_differences(books),
        _verdict(books),
    )


def rows_off(books: BooksView) -> list[BookView]:
    """Rows where admitted = settled + abandoned + in flight does not hold."""
    return [row for row in books.rows if _is_off(row.model_dump())]


def is_balanced(books: BooksView) -> bool:
    """The verdict, worked out again here: an audit does not take the audited one's word."""
    sums = [row.model_dump() for row in _all_sums(books)]
    is_counted = not rows_off(books) and not any(map(_is_off, [books.totals, *sums]))
    return books.balanced and is_counted and not books.differences and not any(books.causes.values())


def _accounts(books: BooksView) -> Table:
    view = table("Books", "model", "provider", "pool", *(f"#{name.replace('_', ' ')}" for name in _COUNTS))
    for row in books.rows:
        view.add_row(text(row.model), text(row.provider), text(row.pool), *_counts(row.model_dump()))
    view.add_section()
    view.add_row(Text("all", style="bold"), "", "", *_counts(books.totals))
    return view


def _sums(books: BooksView) -> Table:
    view = table("Balances", "of", "", *(f"#{name.replace('_', ' ')}" for name in _COUNTS))
    for kind, rows in _kinds(books):
        for place, row in enumerate(rows):
            view.add_row(
                Text(kind if place == 0 else "", style="bold"),
                text(row.name or "(none)"),
                *_counts(row.model_dump()),
            )
        view.add_section()
    return view


def _kinds(books: BooksView) -> Sequence[tuple[str, list[BalanceView]]]:
    sums = books.balances
    return [
        ("models", sums.models),
        ("providers", sums.providers),
        ("pools", sums.pools),
        ("client keys", sums.keys),
        ("domains", sums.domains),
    ]


def _all_sums(books: BooksView) -> Iterable[BalanceView]:
    for _, rows in _kinds(books):
        yield from rows


def _causes(books: BooksView) -> Table:
    view = table("Difference by cause", "cause", "#off", "which means")
    for cause, off in books.causes.items():
        style = BAD if off else GOOD
        meaning = Text(_MEANINGS.get(cause, ""), style=QUIET)
        view.add_row(text(cause.replace("_", " ")), Text(str(off), style=style), meaning)
    return view


def _leftovers(books: BooksView) -> list[Table]:
    """What the scheduler is going to delete, and when."""
    if not books.leftovers:
        return []
    view = table("No longer configured", "what", "domain", "name", "goes", "#in flight")
    for left in books.leftovers:
        goes = "never" if left.goes is None else until(left.goes, now=books.time)
        view.add_row(text(left.kind), text(left.domain), text(left.id), goes, str(left.in_flight))
    return [view]


def _differences(books: BooksView) -> list[Table]:
    if not books.differences:
        return []
    view = table("What is off", "cause", "domain", "where", "#amount")
    for difference in books.differences:
        view.add_row(
            text(difference.cause.replace("_", " ")),
            text(difference.domain),
            text(difference.where),
            Text(f"{difference.amount:+d}", style=BAD),
        )
    return [view]


def _verdict(books: BooksView) -> Text:
    if is_balanced(books):
        t = books.totals
        return Text(
            f"✓ The books balance: {t['admitted']:,} admitted = {t['settled']:,} settled + {t['abandoned']:,} abandoned "
            f"+ {t['in_flight']:,} in flight.",
            style=GOOD,
        )
    off = len(rows_off(books))
    others = len(books.differences) - off
    more = f", and {others} other difference{'s' if others != 1 else ''}" if others > 0 else ""
    return Text(f"✗ The books are off in {off} of {len(books.rows)} rows{more}.", style=BAD)


def _counts(row: Mapping[str, Any]) -> Sequence[Text]:
    off = _off_by(row)
    return [
        *(Text(f"{row[name]:,}") for name in _COUNTS[:-1]),
        Text(f"{off:+,}" if off else "0", style=BAD if off else GOOD),
    ]


def _off_by(row: Mapping[str, Any]) -> int:
    off: int = row["admitted"] - row["settled"] - row["abandoned"] - row["in_flight"]
    return off


def _is_off(row: Mapping[str, Any]) -> bool:
    return _off_by(row) != 0 or row["difference"] != 0
