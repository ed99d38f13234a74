"""Durable copies of all quota domains, and their return when the server has lost what they hold.

Every few seconds each domain is read in one moment, stored, and only then marked as copied in the domain itself. A copy that is newer
than the domain's mark, and whose books hold more than the domain's, tells of a loss: an empty restart, or a fall back to older data. Then
the copy is put back before another one is taken, so that no copy of a loss ever replaces a good one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scheduler.sinks.base import Sink
from shared_state.copies import (
    MOST_RESERVATIONS,
    CopyError,
    DomainCopy,
    decode_copy,
    encode_copy,
    mark_copied,
    read_copy,
    read_marks,
    restore_copy,
    subtract,
)
from shared_state.directory import Directory
from shared_state.logs import get_logger
from shared_state.store import Store
from shared_state.topology import DomainSpec

log = get_logger(__name__)

_NOTHING_TO_WAIT_FOR: Final = 0


@dataclass(frozen=True, slots=True)
class _Newest:
    """What is remembered of the newest copy of a domain."""

    taken_ms: int
    epoch: int
    books: Mapping[str, int]
    digest: str


def _newest(copy: DomainCopy) -> _Newest:
    return _Newest(copy.taken_ms, copy.epoch, copy.books, copy.digest())


class Copies:
    """Takes copies and restores them; one thing at a time."""

    def __init__(self, store: Store, domains: Directory, sink: Sink) -> None:
        self._store = store
        self._domains = domains
        self._sink = sink
        self._lock = asyncio.Lock()
        self._token = 0
        self._newest: dict[str, _Newest] = {}
        self._overfull: set[str] = set()

    async def run(self, token: int) -> None:
        """One copy of every domain in which something happened.

        Raises:
            FencedOffError: another scheduler leads.
            SinkError: the sink refuses; the older copies stay.
            RedisError, OSError, TimeoutError: the store is away.
        """
        async with self._lock:
            await self._recall(token)
            for domain in (await self._domains.specs()).values():
                live = await self._look(domain, token)
                if live is not None:
                    await self._keep(live, token)

    async def watch(self, token: int) -> None:
        """One look at every domain's mark: restores what is lost soon, for nodes wait for it.

        Raises:
            As `run`.
        """
        async with self._lock:
            await self._recall(token)
            domains = await self._domains.specs()
            for name, (copied_ms, is_wanted) in (await read_marks(self._store, list(domains))).items():
                newest = self._newest.get(name)
                if is_wanted or (newest is not None and copied_ms < newest.taken_ms):
                    await self._look(domains[name], token)
                if is_wanted:
                    await mark_copied(self._store, name, token=token, taken_ms=_NOTHING_TO_WAIT_FOR)

    async def _recall(self, token: int) -> None:
        """Finds out, at the beginning of a lead, what other schedulers have stored meanwhile."""
        if token == self._token:
            return
        self._newest.clear()
        for name in await self._domains.specs():
            copy = await self._load(name)
            if copy is not None:
                self._newest[name] = _newest(copy)
        self._token = token

    async def _look(self, domain: DomainSpec, token: int) -> DomainCopy | None:
        """The domain as it is; None if something was lost and has been restored."""
        live = await read_copy(self._store, domain, token=token)
        newest = self._newest.get(domain.id)
        if newest is None or live.copied_ms >= newest.taken_ms or not live.lacks(newest.epoch, newest.books):
            return live
        return None if await self._restore(domain, live, token) else live

    async def _restore(self, domain: DomainSpec, live: DomainCopy, token: int) -> bool:
        copy = await self._load(domain.id)
        if copy is None:
            return False
        base = await self._load(domain.id, until_ms=live.copied_ms) if live.copied_ms else None
        part = _difference(copy, base, live)
        restored = await restore_copy(self._store, domain, part, token=token, whole=copy.books)
        if restored is None:
            return False
        log.warning(
            "state restored",
            domain=domain.id,
            age_ms=restored.age_ms,
            reservations=restored.reservations,
            books=restored.books,
            since_ms=part.base_ms,
            left_out=copy.left_out,
        )
        return True

    async def _keep(self, live: DomainCopy, token: int) -> None:
        known, newest = self._newest.get(live.domain), _newest(live)
        if known is not None and known.digest == newest.digest and live.copied_ms == known.taken_ms:
            return
        await self._sink.save_copy(self._name(live.domain), live.taken_ms, encode_copy(live))
        self._newest[live.domain] = newest
        await mark_copied(self._store, live.domain, token=token, taken_ms=live.taken_ms)
        self._tell_overfull(live)

    def _tell_overfull(self, live: DomainCopy) -> None:
        if not live.left_out:
            self._overfull.discard(live.domain)
        elif live.domain not in self._overfull:
            self._overfull.add(live.domain)
            log.warning(
                "copy is not complete", domain=live.domain, left_out=live.left_out, at_most=MOST_RESERVATIONS
            )

    async def _load(self, domain: str, *, until_ms: int | None = None) -> DomainCopy | None:
        stored = await self._sink.latest_copy(self._name(domain), until_ms=until_ms)
        try:
            return decode_copy(stored.blob) if stored else None
        except CopyError as error:
            log.error(
                "copy is of no use", domain=domain, taken_ms=stored and stored.taken_ms, error=error.message
            )
            return None

    def _name(self, domain: str) -> str:
        """Copies of several clusters may lie in one sink."""
        return self._store.keys.domain(domain)


def _difference(copy: DomainCopy, base: DomainCopy | None, live: DomainCopy) -> DomainCopy:
    """What to add to the domain: without a base all of the copy, though a part of it may be counted twice then."""
    if base is None or base.taken_ms != live.copied_ms or base.left_out or copy.left_out:
        return copy
    return subtract(copy, base)
