"""Checks the books of every domain: what was admitted is settled, abandoned or in flight."""

from __future__ import annotations

import structlog

from shared_state.books import read_books
from shared_state.directory import Directory
from shared_state.errors import ModelMeshError
from shared_state.store import Store

log = structlog.get_logger(__name__)


class BooksOffError(ModelMeshError):
    """An account of the books does not balance; the job's report carries the message until it does."""

    default_code = "books_off"


class Audit:
    """The auditor: reads, compares, and changes nothing."""

    def __init__(self, store: Store, domains: Directory) -> None:
        self._store = store
        self._domains = domains

    async def run(self, _token: int) -> None:
        """One look at all books.

        Raises:
            BooksOffError: with every account that is off.
            RedisError, OSError, TimeoutError: the store is away.
        """
        faults = []
        for domain in await self._domains.ids():
            books = await read_books(self._store, domain)
            faults += [
                f"{row.model} in {row.pool}: {row.difference:+d}" for row in books.rows if row.difference
            ]
            leaked = books.leases - sum(row.in_flight for row in books.rows)
            if leaked:
                faults.append(f"{domain}: {leaked:+d} expiries without a reservation")
        if faults:
            log.error("the books do not balance", faults=faults)
            raise BooksOffError("; ".join(faults))
