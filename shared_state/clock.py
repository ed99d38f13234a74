"""Server time without asking for it: the offset between Redis' clock and this process's monotonic one."""

from __future__ import annotations

import time


class ServerClock:
    """Estimates the store's clock from its last reply; before the first, the local wall clock."""

    __slots__ = ("_offset_ms",)

    def __init__(self) -> None:
        self._offset_ms = time.time() * 1000 - time.monotonic() * 1000

    def observe(self, now_ms: int) -> None:
        """Takes over the server's time from a reply that has just arrived."""
        self._offset_ms = now_ms - time.monotonic() * 1000

    def now_ms(self) -> int:
        """Server time in unix milliseconds."""
        return int(time.monotonic() * 1000 + self._offset_ms)
