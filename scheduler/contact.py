"""How good our own contact with the store is: the basis for any verdict about others.

A store that was frozen, or a process of ours that slept, makes every node look dead. Whoever judges by age must first
have watched without a gap for as long as that age.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from shared_state.logs import get_logger
from shared_state.store import Store

log = get_logger(__name__)

#: A pause between two readings, or a difference between the two clocks' progress, that counts as a gap.
GAP_S: Final = 2.0


class Contact:
    """Remembers since when the store has answered without a gap; logs once per change.

    Args:
        url: shown in the log, without a password.
        clock: monotonic seconds.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._last: tuple[float, float] | None = None
        self._since_s = 0.0
        self._is_away = False

    @property
    def steady_s(self) -> float:
        """For how long the store has answered without a gap, up to the last reading."""
        return self._last[0] - self._since_s if self._last else 0.0

    def observe(self, server_s: float) -> None:
        """Notes a reply that has just arrived, by the server's clock."""
        now_s = self._clock()
        if self._last is None or _is_gap(now_s - self._last[0], server_s - self._last[1]):
            self._since_s = now_s
        self._last = (now_s, server_s)
        if self._is_away:
            self._is_away = False
            log.info("redis is back", url=self._url)

    def lose(self, error: BaseException) -> None:
        """Notes a call that failed."""
        self._last = None
        if not self._is_away:
            self._is_away = True
            log.warning("redis is away, waiting for it", url=self._url, error=describe(error))


def _is_gap(ours_s: float, servers_s: float) -> bool:
    return ours_s > GAP_S or abs(servers_s - ours_s) > GAP_S


def describe(error: BaseException) -> str:
    """One line for people; some timeouts have no text of their own."""
    return " ".join(str(error).split()) or type(error).__name__


async def read_server_time_s(store: Store) -> float:
    """The store's clock, unix seconds."""
    seconds, micros = await store.client.time()
    return float(seconds) + float(micros) / 1e6
