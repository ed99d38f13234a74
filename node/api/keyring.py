"""The client keys that this node has seen: known without a round trip, void within a moment of their revocation.

An event or a new version makes every entry doubtful, and a doubtful one is read again before it opens anything. While Redis is away the last
word counts; what was never asked is then neither known nor unknown. A key that Redis has forgotten is put back: keys are never deleted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from node.watch import StoreWatch
from shared_state.client_keys import ClientKey, ClientKeys, is_key_text
from shared_state.errors import StateUnavailableError
from shared_state.events import Event
from shared_state.gates import DomainKind
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS

log = get_logger(__name__)

#: So often a node looks whether it has missed an event.
_POLL_S: Final = 0.5
_MOST_KNOWN: Final = 16_384
_MOST_UNKNOWN: Final = 4096


class _Shelf:
    """Entries with the generation that they were read in; the oldest falls off."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[str, tuple[int, ClientKey | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: str) -> tuple[int, ClientKey | None] | None:
        return self._entries.get(digest)

    def put(self, digest: str, generation: int, key: ClientKey | None) -> None:
        self._entries[digest] = (generation, key)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def drop(self, digest: str) -> None:
        self._entries.pop(digest, None)


class Keyring:
    """Finds client keys by their text.

    Args:
        keys: where they are kept.
    """

    def __init__(self, keys: ClientKeys, watch: StoreWatch) -> None:
        self._keys = keys
        self._watch = watch
        self._known = _Shelf(_MOST_KNOWN)
        self._unknown = _Shelf(_MOST_UNKNOWN)  # apart, so that guessing pushes nobody out
        self._generation = 0
        self._version: int | None = None
        self._reading: dict[str, asyncio.Future[ClientKey | None]] = {}
        watch.on_return(self.doubt)

    def follow(self, keys: ClientKeys) -> None:
        """Looks keys up elsewhere from here on: another pepper makes other digests."""
        self._keys = keys
        self.doubt()

    def doubt(self) -> None:
        """Something may have changed unseen: every key is read again before its next use."""
        self._generation += 1

    def observe_event(self, event: Event) -> None:
        """A key was made or revoked."""
        if event.kind == DomainKind.KEY:
            self.doubt()

    async def find(self, text: bytes) -> ClientKey | None:
        """The key of that text, revoked and expired ones included; None if there is none.

        Raises:
            StateUnavailableError: Redis is away, and this node has not seen the text before.
        """
        if not is_key_text(text):
            return None
        digest = self._keys.digest(text)
        known = self._known.get(digest)
        if known is not None and known[0] == self._generation:
            return known[1]
        if self._watch.connected:
            unknown = self._unknown.get(digest)
            if unknown is not None and unknown[0] == self._generation:
                return None
            try:
                return await self._read_once(digest)
            except STORE_ERRORS as error:
                self._watch.report_failure(error)
        if known is None:  # it may have been made elsewhere since, so it is not unknown either
            raise StateUnavailableError(
                "the shared state is away, and the key was not seen here before", retry_after_s=1.0
            )
        return known[1]

    async def _read_once(self, digest: str) -> ClientKey | None:
        """Reads a key; callers who come meanwhile wait for the same answer."""
        reading = self._reading.get(digest)
        if reading is None:
            reading = self._reading[digest] = asyncio.ensure_future(self._read(digest))
            reading.add_done_callback(lambda done: self._forget(digest, done))
        return await asyncio.shield(reading)

    def _forget(self, digest: str, done: asyncio.Future[ClientKey | None]) -> None:
        self._reading.pop(digest, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; if all have left, nobody needs it

    async def _read(self, digest: str) -> ClientKey | None:
        generation = self._generation  # what changes while we read makes the entry doubtful again
        key = await self._keys.find(digest)
        known = self._known.get(digest)
        if key is None and known is not None and known[1] is not None:
            key = known[1]
            await self._keys.put_back(key, digest)
            log.warning("the shared state had lost a client key", key=key.id)
        shelf, other = (self._known, self._unknown) if key is not None else (self._unknown, self._known)
        shelf.put(digest, generation, key)
        other.drop(digest)
        return key

    async def run(self) -> None:
        """Compares versions until cancelled: events may be lost."""
        while True:
            await asyncio.sleep(_POLL_S)
            if self._watch.connected and (len(self._known) or len(self._unknown)):
                try:
                    await self._compare()
                except STORE_ERRORS as error:
                    self._watch.report_failure(error)

    async def _compare(self) -> None:
        version = await self._keys.version()
        if version != self._version:
            self._version = version
            self.doubt()
