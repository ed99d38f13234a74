"""The books as operators see them: every account, and its sums by model, provider, pool and domain."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Final

from shared_state.books import BookRow, DomainBooks, by_cause
from shared_state.gates import DomainKind, kind_of
from shared_state.shapes.status import BalancesView, BalanceView, BooksView, BookView, DifferenceView
from shared_state.topology import Topology

_COUNTS: Final = ("admitted", "settled", "abandoned", "in_flight", "difference")


def view_books(domains: Sequence[DomainBooks], topology: Topology) -> BooksView:
    """The whole view; a model that is configured no more has the provider ``""``."""
    rows = [_row(row, topology) for books in domains for row in books.rows]
    traffic = [row for row in rows if row.kind == DomainKind.ACCOUNT]
    differences = [difference for books in domains for difference in books.differences]
    return BooksView(
        balanced=all(books.is_balanced for books in domains),
        time=time.time(),
        rows=rows,
        totals={name: sum(getattr(row, name) for row in traffic) for name in _COUNTS},
        balances=BalancesView(
            models=_balances(traffic, lambda row: row.model),
            providers=_balances(traffic, lambda row: row.provider),
            pools=_balances(traffic, lambda row: row.pool),
            keys=_balances(
                (row for row in rows if row.kind == DomainKind.KEY),
                lambda row: row.domain.partition(":")[2],
            ),
            domains=_balances(rows, lambda row: row.domain),
        ),
        causes=by_cause(differences),
        differences=[DifferenceView(**asdict(difference)) for difference in differences],
    )


def _row(row: BookRow, topology: Topology) -> BookView:
    known = topology.models.get(row.model)
    return BookView(
        **asdict(row),
        kind=kind_of(row.domain),
        provider=known.provider if known else "",
        difference=row.difference,
    )


def _balances(rows: Iterable[BookView], key: Callable[[BookView], str]) -> list[BalanceView]:
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        sums[key(row)].update({name: getattr(row, name) for name in _COUNTS})
    return [BalanceView(name=name, **{c: sums[name][c] for c in _COUNTS}) for name in sorted(sums)]
