"""The books: what was admitted is settled, abandoned or in flight, for every model and pool, at all times."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Final

from shared_state.store import Store

#: The pool, a tab and the provider stand behind the numbers of a packed reservation.
_POOL_AT: Final = 24


@dataclass(slots=True, frozen=True)
class BookRow:
    """One account of the books."""

    domain: str
    model: str
    pool: str
    admitted: int
    settled: int
    abandoned: int
    in_flight: int

    @property
    def difference(self) -> int:
        """What is missing (positive) or was booked twice (negative); 0 when the books balance."""
        return self.admitted - self.settled - self.abandoned - self.in_flight


@dataclass(slots=True, frozen=True)
class DomainBooks:
    """Books of a domain at one moment.

    Attributes:
        leases: size of the set of expiries; differs from the reservations only if one of them leaked.
    """

    domain: str
    now_ms: int
    rows: tuple[BookRow, ...]
    leases: int

    @property
    def is_balanced(self) -> bool:
        """Whether every account balances and no reservation leaked."""
        return not any(row.difference for row in self.rows) and self.leases == sum(
            r.in_flight for r in self.rows
        )


async def read_books(store: Store, domain: str) -> DomainBooks:
    """The books of a domain, consistent at one moment; costs time in proportion to what is in flight."""
    now_ms, flat, leases, *reservations = await store.run("read_books", [store.keys.domain(domain)])
    counts: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        model, pool, verb = name.decode().split("\t")
        counts[model, pool][verb] = int(value)
    flight = Counter(
        (model.decode(), packed[_POOL_AT:].partition(b"\t")[0].decode())
        for model, records in zip(reservations[::2], reservations[1::2], strict=True)
        for packed in records
    )
    rows = [
        BookRow(
            domain=domain,
            model=model,
            pool=pool,
            admitted=counts[model, pool].get("admitted", 0),
            settled=counts[model, pool].get("settled", 0),
            abandoned=counts[model, pool].get("abandoned", 0),
            in_flight=flight[model, pool],
        )
        for model, pool in sorted({*counts, *flight})
    ]
    return DomainBooks(domain, now_ms, tuple(rows), leases)
