"""Checks the books of every domain: all balances, every reservation, every lease; and reports by cause."""

from __future__ import annotations

from shared_state.books import Difference, by_cause, read_books, report_audit
from shared_state.directory import Directory
from shared_state.errors import ModelMeshError
from shared_state.logs import get_logger
from shared_state.store import Store

log = get_logger(__name__)


class BooksOffError(ModelMeshError):
    """An account of the books does not balance; the job's report carries the message until it does."""

    default_code = "books_off"


class Audit:
    """The auditor: reads, compares, and changes nothing but its own report, which every node's metrics show."""

    def __init__(self, store: Store, domains: Directory) -> None:
        self._store = store
        self._domains = domains

    async def run(self, _token: int) -> None:
        """One look at all books.

        Raises:
            BooksOffError: with everything that is off.
            RedisError, OSError, TimeoutError: the store is away.
        """
        differences: list[Difference] = []
        for domain, limited in await self._domains.audited():
            differences += (await read_books(self._store, domain, limited=limited)).differences
        await report_audit(self._store, by_cause(differences))
        if differences:
            faults = [f"{d.domain}: {d.amount:+d} {d.where} ({d.cause})" for d in differences]
            log.error("the books do not balance", faults=faults)
            raise BooksOffError("; ".join(faults))
