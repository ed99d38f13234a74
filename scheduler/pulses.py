"""The pulses of all accounts' domains, in one round trip for everybody who asks within a moment: an idle domain costs nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from shared_state.domains import Pulse, read_pulses
from shared_state.store import Store

_FRESH_S: Final = 0.2
#: Everything counts as changed so often, whatever the pulses say.
_ANEW_S: Final = 10.0


class Pulses:
    """Reads the pulses of some domains.

    Args:
        fresh_s: how old a reading may be.
    """

    def __init__(self, store: Store, domains: Sequence[str], *, fresh_s: float = _FRESH_S) -> None:
        self.domains = domains
        self._fresh_s = fresh_s
        self._store = store
        self._known: Mapping[str, Pulse] = {}
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def read(self) -> Mapping[str, Pulse]:
        """The pulse of each domain, a moment old at most.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        now = asyncio.get_running_loop().time
        async with self._lock:
            if now() - self._read_at >= self._fresh_s:
                asked_at = now()
                self._known = await read_pulses(self._store, self.domains)
                self._read_at = asked_at
            return self._known


class Follower:
    """Remembers up to which change one reader has looked at each domain."""

    def __init__(self, pulses: Pulses) -> None:
        self._pulses = pulses
        self._seen: dict[str, tuple[int, int]] = {}
        self._latest: dict[str, tuple[int, int]] = {}
        self._anew_at = float("-inf")

    async def changed(self) -> list[str]:
        """Domains whose states may have changed since they were last noted; all of them now and then.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        now = asyncio.get_running_loop().time()
        if now - self._anew_at > _ANEW_S:
            self._seen.clear()
            self._anew_at = now
        pulses = await self._pulses.read()
        self._latest = {domain: (pulse.epoch, pulse.term) for domain, pulse in pulses.items()}
        return [domain for domain, mark in self._latest.items() if self._seen.get(domain) != mark]

    def note(self, domains: Iterable[str]) -> None:
        """These were looked at after the last reading."""
        self._seen.update((domain, self._latest[domain]) for domain in domains)

    def doubt_all(self) -> None:
        """All of them are."""
        self._seen.clear()

    def doubt(self, domain: str) -> None:
        """This one is to be looked at again."""
        self._seen.pop(domain, None)
