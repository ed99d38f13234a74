"""What is new in the lists of events: who keeps a place in each list learns what came after it, in the order of time.

Lists hold the hundred latest events. An event has no number, so it is known by a digest of its text, which holds the time, the epoch, and what has
happened to whom: the same for everybody who reads it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from shared_state.deadline import Deadline
from shared_state.directory import Directory
from shared_state.events import Event, decode_event
from shared_state.gates import pool_gate
from shared_state.marks import Place
from shared_state.store import Store
from shared_state.topology import Topology

#: As many events a list holds.
KEPT: Final = 100
#: No quota domain has such a name.
_VERSIONS: Final = "mesh:versions"
_KEYS: Final = "mesh:keys"
_OF_CLUSTER: Final = (_VERSIONS, _KEYS)
_ID_BYTES: Final = 12
_AT_ONCE: Final = 1000


class Told(NamedTuple):
    """An event, where it was found, and by what it is known."""

    id: str
    list: str
    event: Event


class Found(NamedTuple):
    """What came after a place.

    Attributes:
        told: oldest first.
        newest: the place from here on; None if the list holds nothing.
        has_gap: events have left the list before they were read.
    """

    told: list[Told]
    newest: Place | None
    has_gap: bool


class News:
    """All lists of events of a cluster: of quota domains, pools, versions and client keys.

    Args:
        fresh_s: how long what was seen serves every target; client keys, of which there may be thousands, are looked at ten times as seldom.
    """

    def __init__(self, store: Store, topology: Topology, domains: Directory, *, fresh_s: float = 0.4) -> None:
        self._store = store
        self._pools = [pool_gate(pool) for pool in topology.pools]
        self._domains = domains
        self._fresh_s = fresh_s
        self._looked_at = self._looked_at_all = -math.inf
        self._lists: list[str] = []
        self._newest: dict[str, bytes] = {}

    async def newest(self) -> dict[str, bytes]:
        """The newest event of each list that has any.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        now = asyncio.get_running_loop().time()
        if now - self._looked_at_all >= self._fresh_s * 10:
            names = [*_OF_CLUSTER, *dict.fromkeys([*await self._domains.ids(), *self._pools])]
            await self._look(names)
            self._lists = [name for name in names if not name.startswith("key:")]
            self._looked_at = self._looked_at_all = now
        elif now - self._looked_at >= self._fresh_s:
            await self._look(self._lists)
            self._looked_at = now
        return dict(self._newest)

    async def _look(self, names: Sequence[str]) -> None:
        found = await self._read([self._key(name) for name in names], 0)
        self._newest |= {name: raw[0] for name, raw in zip(names, found, strict=True) if raw}

    async def read(self, lists: Sequence[str]) -> dict[str, list[bytes]]:
        """Those lists, newest first.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        found = await self._read([self._key(name) for name in lists], -1)
        return dict(zip(lists, found, strict=True))

    def _key(self, name: str) -> str:
        keys = self._store.keys
        if name in _OF_CLUSTER:
            return f"{keys.versions if name == _VERSIONS else keys.client_keys}:news"
        return keys.news(name)

    async def _read(self, keys: Sequence[str], last: int) -> list[list[bytes]]:
        found: list[list[bytes]] = []
        for start in range(0, len(keys), _AT_ONCE):
            pipe = self._store.client.pipeline(transaction=False)
            for key in keys[start : start + _AT_ONCE]:
                pipe.lrange(key, 0, last)
            async with Deadline(self._store.timeout_s):
                found += await pipe.execute()
        return found


def id_of(raw: bytes) -> str:
    """By what an event is known, whoever tells it."""
    return hashlib.blake2b(raw, digest_size=_ID_BYTES).hexdigest()


def place_of(raw: bytes) -> Place:
    """The place of an event; of one that cannot be read only the digest is known."""
    event = decode_event(raw)
    return Place(event.time_ms if event else 0, id_of(raw))


def after(name: str, raw: Sequence[bytes], place: Place | None, *, since_ms: int) -> Found:
    """What came after ``place``; without one, since ``since_ms``.

    If the place has left the list, or the store has fallen back, time decides: better told twice than not at all.

    Args:
        raw: a list, newest first.
    """
    fresh: list[Told] = []
    floor_ms = place.time_ms if place else since_ms
    was_found = reached_floor = False
    for text in raw:
        event_id, event = id_of(text), decode_event(text)
        if place is not None and event_id == place.id:
            was_found = True
            break
        if event is not None and event.time_ms < floor_ms:
            reached_floor = True
        elif event is not None:
            fresh.append(Told(event_id, name, event))
    has_gap = not was_found and not reached_floor and len(raw) >= KEPT
    return Found(fresh[::-1], place_of(raw[0]) if raw else place, has_gap)


def in_order(found: Mapping[str, Found]) -> list[Told]:
    """The events of all lists, oldest first."""
    told = [one for each in found.values() for one in each.told]
    told.sort(key=lambda one: one.event.time_ms)
    return told
