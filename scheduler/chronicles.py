"""Durable copies of the configuration's versions: what a server has lost of them while nobody ran them comes back, with its history.

They lie in the storage of the scheduler's own file, for without any version that is the one it knows of.
"""

from __future__ import annotations

import time
from typing import Final

from scheduler.sinks import Sink, SinkAwayError, SinkError
from shared_state.logs import get_logger
from shared_state.store import Store
from shared_state.versions import (
    Chronicle,
    ChronicleError,
    Mark,
    Versions,
    decode_chronicle,
    encode_chronicle,
)

log = get_logger(__name__)

_PAUSE_S: Final = 10.0


class Chronicles:
    """Copies of the versions of one cluster in one sink, which belongs to the caller."""

    def __init__(self, store: Store, versions: Versions, sink: Sink) -> None:
        self._versions = versions
        self._sink = sink
        self._name = store.keys.versions
        self._known: Chronicle | None = None
        self._is_recalled = False
        self._stored_ms = 0
        self._fault = ""
        self._again_s = 0.0

    async def look(self) -> None:
        """Puts back what is lost, else stores what is new. A storage that fails is told once, and tried again; one that is away after a
        while, for to wait for it holds up whoever looks.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        if time.monotonic() < self._again_s:
            return
        try:
            await self._compare()
        except (SinkError, ChronicleError) as error:
            if isinstance(error, SinkAwayError):
                self._again_s = time.monotonic() + _PAUSE_S
            self._tell(error.message)
        else:
            self._tell("")

    async def _compare(self) -> None:
        mark = await self._versions.mark()
        if not self._is_recalled or _has_lost(mark, self._known):
            await self._recall()  # another scheduler may have stored more
        if self._known is not None and _has_lost(mark, self._known):
            count = await self._versions.restore(self._known)
            log.warning("versions restored", number=self._known.current, before=mark.current, versions=count)
        elif mark.current and (self._known is None or mark[:2] != (self._known.current, self._known.last)):
            await self._store()

    async def _recall(self) -> None:
        stored = await self._sink.latest_copy(self._name)
        self._is_recalled = True
        if stored is not None:
            self._stored_ms = stored.taken_ms
            self._known = decode_chronicle(stored.blob)

    async def _store(self) -> None:
        chronicle = await self._versions.chronicle()
        if chronicle is None:
            return
        self._stored_ms = max(round(time.time() * 1000), self._stored_ms + 1)
        await self._sink.save_copy(self._name, self._stored_ms, encode_chronicle(chronicle))
        self._known = chronicle

    def _tell(self, fault: str) -> None:
        if fault and fault != self._fault:
            log.error("versions have no durable copy", error=fault)
        self._fault = fault


def _has_lost(mark: Mark, known: Chronicle | None) -> bool:
    """Numbers only ever grow, and of the version in force the history does not change."""
    if known is None or mark.current > known.current:
        return False
    return mark.current < known.current or mark.documents < len(known.versions)
